//! What can go wrong, told apart by the one question that matters after a write: did it happen?

use std::error::Error as StdError;
use std::sync::Arc;

pub use romana_api::ApiError;

/// A cause, shared: one failed batch fails many callers.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// Why a call did not give an answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The cluster refused: nothing happened, and trying again gives the same.
    #[error("{0}")]
    Refused(Box<ApiError>),
    /// No replica could take the request: nothing happened.
    #[error("no replica could answer: {why}")]
    Unavailable {
        /// What the last attempts met.
        why: String,
        /// The cause of the last attempt.
        #[source]
        source: Option<Cause>,
    },
    /// The request was sent, the answer was lost: it may have happened.
    #[error("the outcome is unknown (it may have happened): {why}")]
    Unknown {
        /// What the last attempts met.
        why: String,
        /// The cause of the last attempt.
        #[source]
        source: Option<Cause>,
    },
    /// What came back is not what a Romana replica answers.
    #[error("not an answer of a Romana replica: {why}")]
    Protocol {
        /// What is wrong with it.
        why: String,
    },
    /// The cluster is newer than this program, and what happened there cannot be left out.
    #[error("{why}")]
    Newer {
        /// What is not known, and where it is.
        why: String,
    },
    /// The client cannot be used as configured, or the request cannot be expressed.
    #[error("{why}")]
    Config {
        /// What is wrong.
        why: String,
    },
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

    /// Whether the request may have been carried out.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// What the last replica said that refused, or could not answer.
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
