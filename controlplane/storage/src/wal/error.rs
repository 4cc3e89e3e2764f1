//! Errors of the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::Failed;

/// Why the log cannot be opened or read, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another process (or another handle in this one) has locked the directory.
    #[error("{} is locked: another process uses this log", path.display())]
    Locked { path: PathBuf },
    /// Durable bytes are corrupt. Nothing was changed; re-seed the replica from the others.
    #[error("{}: damaged at offset {offset}: {why}", file.display())]
    Damaged {
        file: PathBuf,
        /// Offset in bytes from its start.
        offset: u64,
        why: String,
    },
    /// The log belongs to another replica, or to another data directory of this one.
    #[error(
        "{} is of another log: it belongs to replica {theirs}, and this is replica {ours} in the data directory \
         that `nonce` names: put the log back that belongs here", file.display()
    )]
    Foreign {
        file: PathBuf,
        /// Id of its owner.
        theirs: u64,
        /// Id of the replica that opens it.
        ours: u64,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// These entries were purged.
    #[error("log entries before index {first} were purged")]
    Purged {
        /// The first remaining entry.
        first: u64,
    },
    /// The log stopped earlier, permanently.
    #[error("the log has stopped after a failure")]
    Stopped(#[source] Arc<WalError>),
}

impl From<Failed> for WalError {
    fn from(Failed { action, path, source }: Failed) -> Self {
        Self::Io { action, path, source }
    }
}

impl WalError {
    /// For `map_err`: an I/O error of `action` on `path`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The error for callers of a stopped log, with `cause` as its source.
    pub(super) fn answer(cause: &Arc<Self>) -> io::Error {
        io::Error::new(cause.kind(), Self::Stopped(Arc::clone(cause)))
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Locked { .. } => io::ErrorKind::WouldBlock,
            Self::Damaged { .. } | Self::Foreign { .. } => io::ErrorKind::InvalidData,
            Self::Io { source, .. } => source.kind(),
            Self::Purged { .. } => io::ErrorKind::NotFound,
            Self::Stopped(cause) => cause.kind(),
        }
    }
}
