//! `/v1/restore`: the result of restoring a backup. The backup itself is a file: see
//! [`romana_statemachine::backup`].

use romana_statemachine::{Digest, Revision};
use serde::{Deserialize, Serialize};

/// The result of a restore: a new cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Restoration {
    /// Id of the new cluster.
    pub cluster_id: String,
    /// Id of the backed-up cluster.
    pub source: String,
    pub from_revision: Revision,
    /// Revision of the new cluster: that of the `Restored` event.
    pub revision: Revision,
    /// Digest of the history at that revision.
    pub digest: Digest,
    /// Digest of the backup, which identifies it.
    pub backup: Digest,
    /// Number of live addresses.
    pub addresses: u64,
    /// Number of hosts that must report before addresses are allocated.
    pub waiting: u64,
}
