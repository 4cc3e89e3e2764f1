//! What can go wrong with the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::Failed;

/// Why the log does not open, does not answer or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another process (or another handle of this one) has the directory.
    #[error("{} is locked: another process uses this log", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Bytes that were durable are not what was written. Nothing was changed; seed the
    /// replica anew from the others.
    #[error("{}: damaged at offset {offset}: {why}", file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where in it, bytes from its start.
        offset: u64,
        why: String,
    },
    /// The log is another replica's, or of another data directory of this one.
    #[error(
        "{} is of another log: it belongs to replica {theirs}, and this is replica {ours} in the data directory \
         that `nonce` names: put the log back that belongs here", file.display()
    )]
    Foreign {
        /// The segment.
        file: PathBuf,
        /// The member whose it is.
        theirs: u64,
        /// The member that opens it.
        ours: u64,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// These entries are gone.
    #[error("log entries before index {first} were purged")]
    Purged {
        /// The first entry that is still there.
        first: u64,
    },
    /// The log stopped earlier, for good.
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

    /// The error that a caller of a stopped log gets: `cause`, which stays its source.
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
