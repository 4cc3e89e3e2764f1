//! Files at user-supplied paths: reads are limited to regular files of bounded size, and
//! writes replace the file atomically.
//!
//! A path may name anything. Opening a named pipe without a writer blocks, a device may have no end, and a
//! rename over a symbolic link would destroy the link. Therefore only regular files are read. Writes follow
//! links, replace regular files atomically, and go directly into pipes and character devices.

use std::fs::{self, File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::whole::{Files, Machine, parent};

/// Limit of symbolic links in a path, as in the kernel.
const LINKS_MAX: usize = 40;
/// Permissions of a new file, before the umask.
const NEW_MODE: u32 = 0o666;

/// Size limit of a configuration file, bytes.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Opens a regular file for reading.
///
/// # Errors
/// The system's error, or [`ErrorKind::InvalidInput`] with the type of the file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Checked before opening, as opening a device may have side effects.
    regular(fs::metadata(path)?.file_type())?;
    let file = OpenOptions::new().read(true).custom_flags(no_wait()).open(path)?;
    let found = file.metadata()?;
    regular(found.file_type())?;
    Ok((file, found))
}

/// Reads a regular file of at most `bytes_max` bytes.
///
/// # Errors
/// As [`open`], and [`ErrorKind::FileTooLarge`].
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("it is longer than {bytes_max} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// The same as text.
///
/// # Errors
/// As [`read`], and [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// Opens a file for appending, such as a log. A named pipe without a reader is an error instead of blocking.
///
/// # Errors
/// The system's error.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).custom_flags(no_wait()).open(path)
}

/// Open flag against blocking on a pipe; it has no effect on regular files.
fn no_wait() -> i32 {
    OFlags::NONBLOCK.bits().cast_signed()
}

fn regular(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let why = format!("it is {}, not a regular file", name(kind));
    Err(io::Error::new(ErrorKind::InvalidInput, why))
}

/// The name of a file type.
pub(crate) fn name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        _ => "something else",
    }
}

/// A file being written at a user-supplied path.
///
/// Links are followed. A regular or new file is written to a temporary file and renamed in
/// [`Replacement::finish`]: until then, and after a failure, the path keeps its content. Pipes and character
/// devices are written directly. Other types are refused.
#[derive(Debug)]
pub struct Replacement {
    to: To,
}

#[derive(Debug)]
enum To {
    Beside { file: NamedTempFile, path: PathBuf },
    Stream(File),
}

impl Replacement {
    /// Starts writing. Blocking: opening a named pipe waits for a reader.
    ///
    /// # Errors
    /// The system's error, or [`ErrorKind::InvalidInput`] if the file type cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let (path, mode) = match fs::metadata(path) {
            Ok(found) if found.is_file() => (fs::canonicalize(path)?, Some(found.permissions())),
            Ok(found) => return Self::stream(path, found.file_type()),
            Err(error) if error.kind() == ErrorKind::NotFound => (end_of_links(path)?, None),
            Err(error) => return Err(error),
        };
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the path has no file name"));
        };
        let prefix = format!(".{}.", name.to_string_lossy());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        // Not `tempfile_in`: its errors name the temporary file, which the caller does not know.
        let file = builder.make_in(parent(&path), |beside| {
            let mut new = OpenOptions::new();
            new.read(true).write(true).create_new(true).mode(NEW_MODE).open(beside)
        })?;
        if let Some(mode) = mode {
            file.as_file().set_permissions(mode)?;
        }
        Ok(Self { to: To::Beside { file, path } })
    }

    /// The same with these permissions, and for regular files only.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_regular(path: &Path, mode: u32) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(found) => regular(found.file_type())?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let new = Self::create(path)?;
        if let To::Beside { file, .. } = &new.to {
            file.as_file().set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(new)
    }

    fn stream(path: &Path, kind: FileType) -> io::Result<Self> {
        if kind.is_fifo() || kind.is_char_device() {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(Self { to: To::Stream(file) });
        }
        let why = format!("it is {}: nothing is written there", name(kind));
        Err(io::Error::new(ErrorKind::InvalidInput, why))
    }

    /// Makes the content durable, and renames the file into place.
    ///
    /// # Errors
    /// The system's error; the path keeps its previous content.
    pub fn finish(self) -> io::Result<()> {
        match self.to {
            To::Stream(mut file) => file.flush(),
            To::Beside { file, path } => {
                let (file, beside) = file.into_parts();
                Machine.finish(&file, &beside, &path)?;
                // Renamed already, so the temporary file must not be removed on drop.
                _ = beside.keep();
                Ok(())
            }
        }
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Beside { file, .. } => file.as_file_mut().write(bytes),
            To::Stream(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Beside { file, .. } => file.as_file_mut().flush(),
            To::Stream(file) => file.flush(),
        }
    }
}

/// The target of a chain of links that leads to no file yet.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            // An absolute target replaces the directory.
            Ok(target) => path = parent(&path).join(target),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("it goes through too many links"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType as Kind, Mode, mknodat};

    use super::*;

    fn fifo(path: &Path) {
        mknodat(CWD, path, Kind::Fifo, Mode::RWXU, 0).unwrap();
    }

    /// Fails the test instead of blocking forever.
    fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || done.send(work()));
        wait.recv_timeout(Duration::from_secs(30)).expect("it does not end")
    }

    fn replace(path: &Path, text: &str) -> io::Result<()> {
        let mut new = Replacement::create(path)?;
        new.write_all(text.as_bytes())?;
        new.finish()
    }

    #[test]
    fn only_bounded_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        symlink("file", at("link")).unwrap();
        fifo(&at("fifo"));
        assert_eq!(read_text(&at("file"), 5).unwrap(), "12345");
        assert_eq!(read_text(&at("link"), 5).unwrap(), "12345");
        assert_eq!(read(&at("file"), 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read(&at("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
        for other in [at("fifo"), dir.path().into(), "/dev/zero".into(), "/dev/full".into()] {
            let refused = soon(move || read(&other, 1 << 20)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
        }
        fs::write(at("bytes"), b"\xff").unwrap();
        assert_eq!(read_text(&at("bytes"), 4).unwrap_err().kind(), ErrorKind::InvalidData);
        let path = at("fifo");
        assert!(soon(move || append(&path)).is_err(), "nobody reads it");
    }

    #[test]
    fn links_are_followed_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/real"), "old").unwrap();
        fs::set_permissions(at("sub/real"), Permissions::from_mode(0o640)).unwrap();
        symlink("sub/real", at("link")).unwrap();
        symlink("link", at("chain")).unwrap();
        symlink(at("sub/new"), at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        replace(&at("chain"), "new").unwrap();
        assert_eq!(fs::read_to_string(at("sub/real")).unwrap(), "new");
        assert_eq!(fs::metadata(at("sub/real")).unwrap().permissions().mode() & 0o777, 0o640);
        replace(&at("dangling"), "made").unwrap();
        assert_eq!(fs::read_to_string(at("sub/new")).unwrap(), "made");
        for link in ["link", "chain", "dangling"] {
            assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
        }
        assert!(replace(&at("loop"), "x").is_err());
        assert_eq!(fs::read_dir(at("sub")).unwrap().count(), 2, "nothing is left beside");
    }

    #[test]
    fn pipes_and_devices_are_written_through_and_the_rest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        fifo(&pipe);
        let reader = pipe.clone();
        let reader = std::thread::spawn(move || fs::read_to_string(reader).unwrap());
        let to = pipe.clone();
        soon(move || replace(&to, "through")).unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        replace(Path::new("/dev/null"), "away").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        for refused in [dir.path(), Path::new("/"), &dir.path().join("none/file")] {
            let error = replace(refused, "x").unwrap_err().to_string();
            assert!(!error.contains("partial"), "{}: {error}", refused.display());
        }
        assert!(Replacement::create_regular(&pipe, 0o755).is_err());
        assert!(Replacement::create_regular(Path::new("/dev/null"), 0o755).is_err());
    }

    #[test]
    fn what_is_not_finished_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut new = Replacement::create(&path).unwrap();
        new.write_all(b"half").unwrap();
        drop(new);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
