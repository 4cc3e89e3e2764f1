//! Records where the history begins, in a separate file (`ORIGIN`): the first segment may start at any
//! revision, so without it a missing first segment would go unnoticed.
//!
//! Written before segments are purged. A missing or damaged file proves nothing and is written again: the history is
//! complete without it.

use std::io;
use std::path::{Path, PathBuf};

use romana_statemachine::Revision;

use super::error::HistoryError;
use super::frame::Start;
use crate::durable::{Disk, Files};
use crate::platform::fs;

const ORIGIN: &str = "ORIGIN";

/// The path of the file.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(ORIGIN)
}

/// Records durably that the history begins here.
pub(super) fn note(dir: &Path, start: Start) -> Result<(), HistoryError> {
    Ok(Disk.put(&path(dir), &start.encode())?)
}

/// Checks that the history does not begin later than recorded; records its beginning if there is no file.
/// `found`: start of the first segment; `None` if there is none. Returns whether the file was missing or damaged
/// beside segments.
pub(super) fn check(dir: &Path, found: Option<Start>) -> Result<bool, HistoryError> {
    let path = path(dir);
    let noted = match fs::read(&path) {
        Ok(bytes) => Start::decode(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("it is missing".to_owned()),
        Err(source) => return Err(HistoryError::Io { action: "read", path, source }),
    };
    match (noted, found) {
        (Ok(noted), Some(found)) if found.first <= noted.first => Ok(false),
        (Ok(noted), found) => Err(missing(dir, noted.first, found)),
        (Err(_), None) => Ok(false),
        (Err(why), Some(found)) => {
            tracing::info!(file = %path.display(), why, first = found.first.get(), "recorded where the history begins");
            note(dir, found)?;
            Ok(true)
        }
    }
}

fn missing(dir: &Path, first: Revision, found: Option<Start>) -> HistoryError {
    let path = dir.join(format!("{first:020}"));
    let why = match found {
        Some(found) => format!(
            "the segment is missing: the history begins at revision {first}, and the first segment at \
             {}",
            found.first
        ),
        None => format!("the segment is missing: the history begins at revision {first}"),
    };
    HistoryError::damaged(&path, 0, why)
}
