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
    /// The highest id among Raft's current members: the new id will be higher.
    pub floor: u64,
    /// The member that it replaces.
    #[serde(default)]
    pub replaces: Option<u64>,
}

/// A data directory's claim to a member's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClaimMember {
    pub id: u64,
    /// Id of the data directory.
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

/// How long the history is kept; `None`: without limit. Records beyond either limit may be purged, up to the last
/// signed checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Maximum age of a record, milliseconds.
    pub age_ms: Option<u64>,
    /// Maximum size of the history on a replica's disk, bytes.
    pub bytes: Option<u64>,
}

/// A checkpoint that the replicas agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SignCheckpoint {
    /// The term in which the leader task decided.
    pub term: Term,
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    pub state_digest: Digest,
}

/// Resume allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResumeAllocation {}

/// The hold after a restore has reached its time limit (leader task).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EndHold {
    /// The term in which the leader task decided.
    pub term: Term,
}
