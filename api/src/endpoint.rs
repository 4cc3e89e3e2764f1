//! `/v1/endpoints`. An endpoint itself is [`romana_statemachine::command::Endpoint`].

use romana_statemachine::command::{Labels, NamedPort};
use romana_statemachine::name::{HostName, SegmentId, TenantId};
use serde::{Deserialize, Serialize};

/// An endpoint without its address, which is in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EndpointBody {
    pub tenant: TenantId,
    pub segment: SegmentId,
    pub host: HostName,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub ports: Vec<NamedPort>,
}
