//! What can go wrong with the history.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use romana_statemachine::Revision;

use crate::durable::Failed;

/// Why the history does not open, take records or answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Bytes that were durable are not what was written. Seed the replica anew from the
    /// others.
    #[error("{}: damaged at offset {offset}: {why}", file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where in it, bytes from its start.
        offset: u64,
        why: String,
    },
    /// The records asked for are not kept any more.
    #[error("the history starts at revision {oldest}")]
    Compacted { oldest: Revision },
    /// Records are missing before the ones to append.
    #[error("revision {got} cannot follow revision {have}")]
    Gap {
        /// The last revision there is.
        have: Revision,
        /// The revision that came.
        got: Revision,
    },
    /// The history has another record of this revision: the replica has diverged.
    #[error("revision {revision} is in the history with another digest")]
    Diverged { revision: Revision },
    /// The operating system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Writing failed earlier; it is not tried again.
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
