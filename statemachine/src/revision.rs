//! Positions in the history and in the Raft log. One type each, so that they cannot be confused; in the wire form and
//! in JSON they are plain numbers.

use core::cmp::Ordering;
use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! positions {
    ($($(#[$doc:meta])* $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $kind(pub u64);

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> alloc::borrow::Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                u64::json_schema(generator)
            }
        }

        impl $kind {
            /// The largest value.
            pub const MAX: Self = Self(u64::MAX);

            /// Its number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next one. Cannot overflow: numbers far beyond the current position are refused before they get
            /// here.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The position `count` further on; at most [`Self::MAX`].
            #[must_use]
            pub const fn plus(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// The position `count` before; at least 0.
            #[must_use]
            pub const fn minus(self, count: u64) -> Self {
                Self(self.0.saturating_sub(count))
            }

            /// From this one through another one, inclusive.
            pub fn through(self, last: Self) -> impl DoubleEndedIterator<Item = Self> {
                (self.0..=last.0).map(Self)
            }

            /// Distance from another one to this one; 0 if the other is not before it.
            #[must_use]
            pub const fn since(self, other: Self) -> u64 {
                self.0.saturating_sub(other.0)
            }
        }

        impl From<u64> for $kind {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl From<$kind> for u64 {
            fn from(position: $kind) -> Self {
                position.0
            }
        }

        impl FromStr for $kind {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }

        impl PartialEq<u64> for $kind {
            fn eq(&self, number: &u64) -> bool {
                self.0 == *number
            }
        }

        impl PartialOrd<u64> for $kind {
            fn partial_cmp(&self, number: &u64) -> Option<Ordering> {
                self.0.partial_cmp(number)
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

positions! {
    /// Position of an event in the history: consecutive, starting at 1. 0 is before the first event.
    Revision;
    /// Position of an entry in the Raft log.
    Index;
    /// A Raft term.
    Term;
}
