//! Errors of the history.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use romana_statemachine::Revision;

use crate::durable::Failed;

/// Why the history cannot be opened, appended to or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Durable bytes are corrupt. Re-seed the replica from the others.
    #[error("{}: damaged at offset {offset}: {why}", file.display())]
    Damaged {
        file: PathBuf,
        /// Offset in bytes from its start.
        offset: u64,
        why: String,
    },
    /// The requested records are no longer kept.
    #[error("the history starts at revision {oldest}")]
    Compacted { oldest: Revision },
    /// Records between the last one and the appended ones are missing.
    #[error("revision {got} cannot follow revision {have}")]
    Gap {
        /// Revision of the last record in the history.
        have: Revision,
        /// Revision of the appended record.
        got: Revision,
    },
    /// The history has a different record at this revision: the replica has diverged.
    #[error("revision {revision} is in the history with another digest")]
    Diverged { revision: Revision },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Writing failed earlier; it is not retried.
    #[error("the history has stopped after a failure")]
    Stopped(#[source] Arc<HistoryError>),
}

impl From<Failed> for HistoryError {
    fn from(Failed { action, path, source }: Failed) -> Self {
        Self::Io { action, path, source }
    }
}

impl HistoryError {
    /// For `map_err`: an I/O error of `action` on `path`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn damaged(file: &Path, offset: u64, why: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, why: why.into() }
    }
}
