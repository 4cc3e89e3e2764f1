//! `/healthz`, `/readyz` and `/status`.

use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

use crate::cluster::MemberProblem;

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

/// What a replica knows about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// `romanad`.
    pub program: String,
    pub version: String,
    /// The replica's id.
    pub id: u64,
    pub ready: bool,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// Problems of this replica, and of leader tasks that run on it.
    pub problems: Vec<MemberProblem>,
}
