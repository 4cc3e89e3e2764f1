//! Events about the control plane itself: members, checkpoints, restores.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::entry::{Digest, Revision};

/// A member got its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberAdded {
    pub id: u64,
    /// `host:port` of its peer listener.
    pub peer: String,
    /// The member in whose place it comes.
    pub replaces: Option<u64>,
}

/// A member's id belongs to a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberClaimed {
    pub id: u64,
    /// What the data directory calls itself.
    pub nonce: String,
    /// `host:port` of its peer listener.
    pub peer: String,
}

/// A member is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberRemoved {
    /// The id, which is never given again.
    pub id: u64,
}

/// The replicas agree on a checkpoint: the chain of the history vouches for it, so that a history
/// which begins there still verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CheckpointSigned {
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    pub state_digest: Digest,
}

/// The cluster begins with a backup of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Restored {
    /// Id of the cluster that the backup is of.
    pub source: String,
    /// Id of this cluster.
    pub cluster: String,
    /// Revision of the backup.
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    /// Digest of the backup file.
    pub backup: Digest,
}

/// Allocation goes on after a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllocationResumed {
    pub by: ResumedBy,
}

/// Why allocation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ResumedBy {
    /// All hosts have reported.
    Reports,
    Operator,
    /// The wait that is set is over (version 3).
    Timeout,
}
