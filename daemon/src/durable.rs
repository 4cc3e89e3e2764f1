//! Durable JSON files with a checksum, replaced atomically ([`crate::whole`]).
//!
//! ```text
//!   "ROMANA1\n" · CRC-32 of the rest, 8 hex digits · "\n" · JSON
//! ```
//! A new format gets another first line, so that an older program reports an
//! unknown format instead of guessing.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::file;
use crate::whole::{Failed, Files, Machine, parent};

const MAGIC: &[u8] = b"ROMANA1\n";
/// Size limit of a file, bytes: a view of a cluster with a million endpoints.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Bytes before the JSON.
const HEAD: usize = MAGIC.len() + 9;

/// A file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    #[error("cannot {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
}

impl From<Failed> for DurableError {
    fn from(Failed { action, path, source }: Failed) -> Self {
        Self::Io { action, path, source }
    }
}

impl DurableError {
    /// Wraps an I/O error with the action and the path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Writes a file atomically: after a crash there is either the old content or the new one.
///
/// # Errors
/// [`DurableError::Io`].
pub fn save(path: &Path, content: &impl Serialize) -> Result<(), DurableError> {
    let io = |action| DurableError::io(action, path);
    let body = serde_json::to_vec(content).map_err(io::Error::from).map_err(io("express"))?;
    let mut file = tempfile::NamedTempFile::new_in(parent(path)).map_err(io("write"))?;
    let sum = format!("{:08x}\n", crc32fast::hash(&body));
    for part in [MAGIC, sum.as_bytes(), &body] {
        file.write_all(part).map_err(io("write"))?;
    }
    let (file, beside) = file.into_parts();
    Machine.finish(&file, &beside, path)?;
    // Renamed already, so the temporary file must not be removed on drop.
    _ = beside.keep();
    Ok(())
}

/// Durably removes a file. A missing file is no error.
///
/// # Errors
/// [`DurableError::Io`].
pub fn remove(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DurableError::io("remove", path)(source))
        }
        _ => Ok(Machine.sync_parent(path)?),
    }
}

/// Prefix of temporary files (`tempfile`).
const TEMPORARY: &str = ".tmp";
/// Extension of files that were set aside.
const ASIDE: &str = "damaged";

/// Files that were set aside in a state directory and its subdirectories.
#[must_use]
pub fn aside_in(dir: &Path) -> Vec<PathBuf> {
    let files = |dir: &Path| {
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        files.map(|file| file.path()).collect::<Vec<_>>()
    };
    let mut all = files(dir);
    // Only names without extension can be our directories.
    let dirs: Vec<PathBuf> =
        all.iter().filter(|path| path.extension().is_none() && path.is_dir()).cloned().collect();
    all.extend(dirs.iter().flat_map(|dir| files(dir)));
    all.retain(|path| path.extension().is_some_and(|extension| extension == ASIDE));
    all.sort();
    all
}

/// Whether a path is that of a file in use: neither temporary nor set aside.
#[must_use]
pub fn is_whole(path: &Path) -> bool {
    !is_temporary(path) && path.extension().is_none_or(|extension| extension != ASIDE)
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()))
}

/// Removes temporary files of killed writers from a directory: those that have not been modified for `age`. A
/// missing directory is no error.
///
/// # Errors
/// [`DurableError::Io`].
pub fn remove_leftovers(dir: &Path, age: std::time::Duration) -> Result<(), DurableError> {
    let files = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files.map_err(DurableError::io("list", dir))?,
    };
    for file in files {
        let file = file.map_err(DurableError::io("list", dir))?;
        let old = || file.metadata()?.modified()?.elapsed().map_err(io::Error::other);
        if is_temporary(&file.path()) && old().is_ok_and(|old| old >= age) {
            fs::remove_file(file.path()).map_err(DurableError::io("remove", &file.path()))?;
        }
    }
    Ok(())
}

/// Reads a file; `None` if it does not exist.
///
/// # Errors
/// [`DurableError`].
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DurableError> {
    let bytes = match file::read(path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DurableError::io("read", path)(source)),
    };
    let content = parse(&bytes);
    content.map(Some).map_err(|why| DurableError::Damaged { path: path.to_owned(), why })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let Some((head, body)) = bytes.split_at_checked(HEAD) else {
        return Err("it is too short".into());
    };
    let Some(sum) = head.strip_prefix(MAGIC) else {
        return Err("it does not begin as this program's files do".into());
    };
    if sum != format!("{:08x}\n", crc32fast::hash(body)).as_bytes() {
        return Err("the checksum is wrong".into());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// Renames a damaged file so that an operator can inspect it. Returns the new path.
pub fn set_aside(path: &Path) -> PathBuf {
    let aside = path.with_extension(ASIDE);
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(path = %path.display(), %error, "setting a damaged file aside failed");
    }
    aside
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), None);
        save(&path, &vec![1, 2]).unwrap();
        save(&path, &vec![3]).unwrap();
        assert_eq!(load(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), None);
    }

    #[test]
    fn what_a_killed_writer_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, left) = (dir.path().join("a"), dir.path().join(".tmpAbCdEf"));
        save(&whole, &1).unwrap();
        fs::write(&left, "half").unwrap();
        remove_leftovers(dir.path(), std::time::Duration::from_secs(3600)).unwrap();
        assert!(left.exists(), "it may still be written");
        remove_leftovers(dir.path(), std::time::Duration::ZERO).unwrap();
        assert!(whole.exists() && !left.exists());
        assert!(is_whole(&whole) && !is_whole(&left) && !is_whole(&dir.path().join("a.damaged")));
        remove_leftovers(&dir.path().join("none"), std::time::Duration::ZERO).unwrap();
    }

    proptest! {
        #[test]
        fn damage_is_noticed(at in 0..60usize, bit in 0..8u32, cut in 0..60usize) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            save(&path, &"something of some length, so that there is room").unwrap();
            let whole = fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            prop_assert!(load::<String>(&path).is_err());
            fs::write(&path, &whole[..cut]).unwrap();
            prop_assert!(load::<String>(&path).is_err());
        }
    }
}
