//! Whole files on the platform's disk: [`romana_daemon::whole`] on the real file system, or on the simulated one.

use std::io::{self, Write};
use std::path::Path;

use romana_daemon::whole::{self, Files};
pub use romana_daemon::whole::{Failed, parent};

use crate::platform::fs::{self, File};

/// The platform's file system.
struct Disk;

impl Files for Disk {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// Writes the file `path` so that after a power cut there is the old one or the new one, whole; as `beside` at first,
/// which must be in the same directory.
///
/// # Errors
/// [`Failed`].
pub fn replace(
    path: &Path,
    beside: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), Failed> {
    whole::replace(&Disk, path, beside, write)
}

/// [`replace`] by some bytes; the file beside it has `.tmp` behind its name.
///
/// # Errors
/// [`Failed`].
pub fn put(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    replace(path, Path::new(&beside), |file| file.write_all(bytes))
}

/// Writes a file, durably, under a name that does not count yet.
///
/// # Errors
/// [`Failed`].
pub fn write(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failed> {
    whole::write(&Disk, path, write)
}

/// Makes a file that was written as `beside` durable and gives it its name.
///
/// # Errors
/// [`Failed`].
pub fn finish(file: &File, beside: &Path, path: &Path) -> Result<(), Failed> {
    whole::finish(&Disk, file, beside, path)
}

/// Gives a file that is durable already another name in its directory, durably.
///
/// # Errors
/// [`Failed`].
pub fn rename(from: &Path, to: &Path) -> Result<(), Failed> {
    whole::rename(&Disk, from, to)
}

/// Makes what was created, renamed and removed in a directory durable.
///
/// # Errors
/// [`Failed`].
pub fn sync_dir(dir: &Path) -> Result<(), Failed> {
    whole::sync_dir(&Disk, dir)
}

/// [`sync_dir`] for the directory that a file or directory is in.
///
/// # Errors
/// [`Failed`].
pub fn sync_parent(path: &Path) -> Result<(), Failed> {
    sync_dir(parent(path))
}
