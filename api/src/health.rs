//! `/healthz` and `/readyz`.

use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

/// The health of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// `healthy`, `ready`, or why a restart would not help.
    pub status: String,
    #[serde(default)]
    pub revision: Revision,
    /// Whether it waits for a backup (`POST /v1/restore`), and serves nothing else yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waiting: bool,
}
