//! Refusals: why a command was not carried out. A refusal is a response, not an event: the state did not change. Each
//! has a stable code (the variant's name), a [`Kind`] (which determines the HTTP status), a message with the request
//! and the reason, and a hint with the remedy.

mod text;

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// The class of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is invalid in any state (HTTP 400).
    Malformed,
    /// A named object does not exist (404).
    NotFound,
    /// The request conflicts with existing objects (409).
    Conflict,
    /// A rule forbids it (422).
    Forbidden,
    /// No capacity is left (507).
    Exhausted,
}

impl Refusal {
    /// Whether the refusal means that the version was raised to already by another request.
    #[must_use]
    pub fn is_raised_already(&self) -> bool {
        matches!(self, Self::VersionNotNext { version, current, .. } if version <= current)
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $code:ident $(($inner:ty))? $({ $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? })?
        => $kind:ident, $message:literal $(, $arg:expr)*; $hint:literal;)*) => {
        /// Why a command was refused. The wire form is frozen: append variants, never edit one.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
        pub enum Refusal {
            $($(#[$doc])* #[error($message $(, $arg)*)]
            $code $(($inner))? $({ $($(#[$fdoc])* $field: $type,)* })?,)*
        }

        impl Refusal {
            /// The stable code.
            #[must_use]
            pub fn code(&self) -> &'static str {
                match self { $(Self::$code { .. } => stringify!($code),)* }
            }

            /// The class.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $(Self::$code { .. } => Kind::$kind,)* }
            }

            /// What the caller can do about it.
            #[must_use]
            pub fn hint(&self) -> &'static str {
                match self { $(Self::$code { .. } => $hint,)* }
            }

            /// All codes with their class and hint, for documentation and tests.
            pub const TABLE: &[(&'static str, Kind, &'static str)] =
                &[$((stringify!($code), Kind::$kind, $hint),)*];
        }
    };
}

/// One reason why a topology cannot be adopted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Conflict {
    /// The object in conflict: a host, a block, a blackout.
    pub subject: String,
    /// Why it cannot be kept.
    pub reason: String,
}

// After the macro, which it uses.
mod list;

pub use list::Refusal;
