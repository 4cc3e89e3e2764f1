//! Events about the control plane itself: members, checkpoints, restores.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::entry::{Digest, Revision};

/// A new member was assigned an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberAdded {
    pub id: u64,
    /// `host:port` of its peer listener.
    pub peer: String,
    /// The member that it replaces.
    pub replaces: Option<u64>,
}

/// A member's id was bound to a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberClaimed {
    pub id: u64,
    /// Id of the data directory.
    pub nonce: String,
    /// `host:port` of its peer listener.
    pub peer: String,
}

/// A member was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberRemoved {
    /// The id, which is never assigned again.
    pub id: u64,
}

/// The replicas agreed on a checkpoint. It is part of the digest chain, so that a history that begins at the
/// checkpoint can still be verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CheckpointSigned {
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    pub state_digest: Digest,
}

/// The cluster was restored from a backup of another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Restored {
    /// Id of the cluster that the backup was taken from.
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

/// Allocation resumed after a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllocationResumed {
    pub by: ResumedBy,
}

/// Why allocation resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ResumedBy {
    /// All hosts have reported.
    Reports,
    Operator,
    /// The hold reached its time limit (version 3).
    Timeout,
}
