//! Atomic file writes: [`romana_daemon::whole`] on the platform's file system, real or simulated.

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

/// Replaces the file `path` atomically: after a power cut either the old or the new contents are there. Writes to
/// `beside` first, which must be in the same directory.
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

/// Like [`replace`] with the given bytes; the temporary file has `.tmp` appended to its name.
///
/// # Errors
/// [`Failed`].
pub fn put(path: &Path, bytes: &[u8]) -> Result<(), Failed> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    replace(path, Path::new(&beside), |file| file.write_all(bytes))
}

/// Writes a file durably under a temporary name.
///
/// # Errors
/// [`Failed`].
pub fn write(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failed> {
    whole::write(&Disk, path, write)
}

/// Syncs a file that was written as `beside` and renames it to its final name.
///
/// # Errors
/// [`Failed`].
pub fn finish(file: &File, beside: &Path, path: &Path) -> Result<(), Failed> {
    whole::finish(&Disk, file, beside, path)
}

/// Renames a durable file within its directory, durably.
///
/// # Errors
/// [`Failed`].
pub fn rename(from: &Path, to: &Path) -> Result<(), Failed> {
    whole::rename(&Disk, from, to)
}

/// Makes creations, renames and removals in a directory durable.
///
/// # Errors
/// [`Failed`].
pub fn sync_dir(dir: &Path) -> Result<(), Failed> {
    whole::sync_dir(&Disk, dir)
}

/// [`sync_dir`] for the parent directory of a path.
///
/// # Errors
/// [`Failed`].
pub fn sync_parent(path: &Path) -> Result<(), Failed> {
    sync_dir(parent(path))
}
