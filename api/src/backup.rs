//! `/v1/restore`: what a replica made of a backup. The backup itself is a file: see [`romana_statemachine::backup`].

use romana_statemachine::{Digest, Revision};
use serde::{Deserialize, Serialize};

/// What a restore made: a new cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Restoration {
    /// Id of the new cluster.
    pub cluster_id: String,
    /// Id of the cluster that the backup is of.
    pub source: String,
    pub from_revision: Revision,
    /// Revision of the new cluster: that of the `Restored` event.
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    /// Digest of the backup: its name.
    pub backup: Digest,
    /// Live addresses.
    pub addresses: u64,
    /// Hosts that allocation waits for.
    pub waiting: u64,
}
