//! `/v1/routes`: the aggregated routes as seen from one point.

use romana_statemachine::Revision;
use romana_statemachine::routes::Routes;
use serde::{Deserialize, Serialize};

/// Routes, and the revision from which they are derived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoutesAt {
    #[serde(flatten)]
    pub routes: Routes,
    pub revision: Revision,
}
