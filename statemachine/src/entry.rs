//! The log as bytes: entries as input, event records as output, and their digests.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::command::Command;
use crate::event::Event;
use crate::name::Actor;
pub use crate::revision::{Index, Revision, Term};

/// Milliseconds since the Unix epoch, as stamped by the leader (cluster time, not its wall clock). Never decreases
/// along the log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// This time plus `ms` milliseconds, saturating.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// Records shorter than this, with the previous digest, are encoded on the stack for hashing instead of the heap.
/// Nearly all are.
const SHORT_BYTES: usize = 512;
/// Initial capacity of an encoding buffer: enough for most values.
const ORDINARY_BYTES: usize = 192;

/// A command and the actor who submitted it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Proposal {
    /// Who submitted it.
    pub actor: Actor,
    /// The command itself.
    pub command: Command,
}

/// The content of a Raft log entry: the commands that were queued when the leader proposed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Entry {
    /// Cluster time when the leader proposed the entry. Applying uses the maximum of this and the previous time.
    pub at: Millis,
    /// Commands in order of arrival. Each is decided separately: a refusal does not affect the others.
    pub proposals: Vec<Proposal>,
}

/// Position of an entry in the Raft log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Raft term of the entry. Commands of leader tasks from an earlier term are refused.
    pub term: Term,
    /// Raft index of the entry.
    pub index: Index,
}

/// One event of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Record {
    /// Position in the history: the previous record's plus one.
    pub revision: Revision,
    /// Raft index of the entry that caused it.
    pub index: Index,
    /// Time of the entry, never before that of the previous record.
    pub at: Millis,
    /// Who submitted the command.
    pub actor: Actor,
    /// What happened.
    pub event: Event,
    /// Digest of the chain up to and including this record.
    pub digest: Digest,
}

impl Record {
    /// The digest of the record with this body, after a record with digest `previous`: BLAKE3 over `previous` and the
    /// wire form of (revision, index, at, actor, event).
    #[must_use]
    pub fn chain(
        previous: &Digest,
        revision: Revision,
        index: Index,
        at: Millis,
        actor: &Actor,
        event: &Event,
    ) -> Digest {
        let body = (revision, index, at, actor, event);
        let mut short = [0; SHORT_BYTES];
        let (before, rest) = short.split_at_mut(previous.0.len());
        before.copy_from_slice(&previous.0);
        if let Ok(used) = postcard::to_slice(&body, rest) {
            let length = previous.0.len() + used.len();
            return Digest::of(&short[..length]);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&previous.0);
        hasher.update(&wire(&body));
        Digest(*hasher.finalize().as_bytes())
    }

    /// Whether this record's digest is correct after a record with digest `previous`.
    #[must_use]
    pub fn follows(&self, previous: &Digest) -> bool {
        let Self { revision, index, at, actor, event, digest } = self;
        Self::chain(previous, *revision, *index, *at, actor, event) == *digest
    }
}

/// The wire form (postcard) of a serialisable value.
///
/// # Panics
/// Never for the types of this crate: they have known lengths and no `flatten`.
#[must_use]
pub fn wire<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "postcard fails only on unknown lengths")]
    postcard::to_extend(value, Vec::with_capacity(ORDINARY_BYTES))
        .expect("types of the vocabulary have a wire form")
}

/// Decodes a wire form. All bytes must be used.
///
/// # Errors
/// An error of postcard: truncated, unknown variant, or trailing bytes.
pub fn unwire<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, postcard::Error> {
    let (value, rest) = postcard::take_from_bytes(bytes)?;
    if rest.is_empty() { Ok(value) } else { Err(postcard::Error::DeserializeBadEncoding) }
}

/// A BLAKE3 digest. Lower-case hexadecimal in JSON and in text.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Parses 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let hex = String::deserialize(deserializer)?;
            Self::from_hex(&hex).ok_or_else(|| de::Error::custom("a digest has 64 hex digits"))
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}
