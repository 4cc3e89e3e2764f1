//! Commands about the control plane itself: members, retention, checkpoints, and the hold after a restore.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::entry::{Digest, Revision, Term};

/// A member to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// `host:port` of its peer listener.
    pub peer: String,
    /// The highest id among Raft's present members: the new one is higher.
    pub floor: u64,
    /// The member in whose place it comes.
    #[serde(default)]
    pub replaces: Option<u64>,
}

/// A data directory's claim to a member's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClaimMember {
    pub id: u64,
    /// What the data directory calls itself.
    pub nonce: String,
    /// `host:port` of its peer listener.
    pub peer: String,
}

/// A member by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemberRef {
    pub id: u64,
}

/// How long the history is kept; `None`: for ever. What exceeds either bound may be purged, up to the
/// last signed checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Longest age of a record, milliseconds.
    pub age_ms: Option<u64>,
    /// Largest size of the history on a replica's disk, bytes.
    pub bytes: Option<u64>,
}

/// A checkpoint on which the replicas agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SignCheckpoint {
    /// The term in which the task decided.
    pub term: Term,
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    pub state_digest: Digest,
}

/// Go on allocating.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResumeAllocation {}

/// The wait for reports after a restore is over (leader task).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EndHold {
    /// The term in which the task decided.
    pub term: Term,
}
