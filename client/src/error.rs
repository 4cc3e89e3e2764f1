//! Errors of the client. They distinguish what matters after a write: whether it may have been committed.

use std::error::Error as StdError;
use std::sync::Arc;

pub use romana_api::ApiError;

/// A shared cause: one failed batch fails many callers.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The cluster refused: nothing was committed, and a retry gives the same result.
    #[error("{0}")]
    Refused(Box<ApiError>),
    /// No replica accepted the request: nothing was committed.
    #[error("no replica could answer: {why}")]
    Unavailable {
        why: String,
        #[source]
        source: Option<Cause>,
    },
    /// The answer was lost: the request may have been committed.
    #[error("the outcome is unknown (it may have happened): {why}")]
    Unknown {
        why: String,
        #[source]
        source: Option<Cause>,
    },
    /// The answer is not that of a Romana replica.
    #[error("not an answer of a Romana replica: {why}")]
    Protocol { why: String },
    /// The cluster is newer than this program, and an unknown event cannot be skipped.
    #[error("{why}")]
    Newer { why: String },
    /// The configuration or the request is invalid.
    #[error("{why}")]
    Config { why: String },
}

impl Error {
    /// An [`Error::Protocol`].
    pub(crate) fn protocol(why: impl Into<String>) -> Self {
        Self::Protocol { why: why.into() }
    }

    /// An [`Error::Config`].
    pub(crate) fn config(why: impl Into<String>) -> Self {
        Self::Config { why: why.into() }
    }

    /// Whether the request may have been committed.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// The error in the last replica's answer, if there was one.
    #[must_use]
    pub fn said(&self) -> Option<&ApiError> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Unavailable { source, .. } | Self::Unknown { source, .. } => {
                source.as_deref()?.downcast_ref()
            }
            Self::Protocol { .. } | Self::Newer { .. } | Self::Config { .. } => None,
        }
    }

    /// The stable code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => Some(&error.code),
            _ => None,
        }
    }
}
