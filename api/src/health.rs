//! `/healthz` and `/readyz`.

use romana_statemachine::Revision;
use serde::{Deserialize, Serialize};

/// The health of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Health {
    /// `healthy`, `ready`, or why a restart would not help.
    pub status: String,
    pub revision: Revision,
}
