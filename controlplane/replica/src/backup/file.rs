//! Backup files: verified reading, durable writing.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use romana_daemon::file::{Replacement, open};
use romana_daemon::whole::{Failed, Files, Machine};
use romana_statemachine::backup::{BackupError, Check, Checked, End, Part, Reader, end_of};

use super::take::{Take, TakeError};

/// Bytes per read.
const READ_BYTES: usize = 256 << 10;
/// Bytes searched for the end of a backup.
const TAIL_BYTES: u64 = 128;

/// Why a backup file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// The file is not a backup, or is damaged.
    #[error("{} cannot be used", path.display())]
    Backup { path: PathBuf, source: BackupError },
    /// The backup cannot be taken.
    #[error(transparent)]
    Take(#[from] TakeError),
}

impl FileError {
    /// For `map_err`: an I/O error of `action` on `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Reads a backup file to its end, verifies all of it, and passes its parts to `take`. Blocks.
///
/// # Errors
/// [`FileError`], or the error of `take`.
pub fn read<E: From<FileError>>(
    path: &Path,
    mut take: impl FnMut(&Part) -> Result<(), E>,
) -> Result<Checked, E> {
    let unusable = |source| FileError::Backup { path: path.into(), source };
    let (mut file, _) = open(path).map_err(FileError::io("open", path))?;
    let (mut reader, mut check) = (Reader::new(), Check::new());
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let length = file.read(&mut bytes).map_err(FileError::io("read", path))?;
        if length == 0 {
            break;
        }
        reader.push(bytes.get(..length).unwrap_or_default());
        while let Some(part) = reader.part().map_err(unusable)? {
            check.part(&part).map_err(unusable)?;
            take(&part)?;
        }
    }
    reader.finish().map_err(unusable)?;
    Ok(check.finish().map_err(unusable)?)
}

/// The end of a backup file, without reading the rest; `None` if it is missing.
///
/// # Errors
/// [`FileError::Io`].
pub fn end(path: &Path) -> Result<Option<End>, FileError> {
    let (mut file, found) = open(path).map_err(FileError::io("open", path))?;
    let length = found.len();
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))
        .and_then(|_| file.read_to_end(&mut tail))
        .map_err(FileError::io("read", path))?;
    Ok(end_of(&tail, length))
}

/// Writes a backup to a temporary file beside `path`, durably, and renames it; refuses to replace a file.
///
/// # Errors
/// [`FileError`]; no file is left then.
pub fn write(path: &Path, mut take: Take) -> Result<(), FileError> {
    if path.exists() {
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(FileError::Io { action: "create", path: path.into(), source });
    }
    let mut file = Replacement::create(path).map_err(FileError::io("create", path))?;
    while let Some(piece) = take.piece()? {
        file.write_all(&piece).map_err(FileError::io("write", path))?;
    }
    file.finish().map_err(FileError::io("finish", path))
}

/// Syncs the directory of `path`.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    let synced = Machine.sync_parent(path);
    synced.map_err(|Failed { action, path, source }| FileError::Io { action, path, source })
}
