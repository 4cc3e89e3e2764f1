//! `/v1/vips`. A VIP itself is [`romana_statemachine::Vip`].

use std::net::IpAddr;

use romana_statemachine::name::HostName;
use serde::{Deserialize, Serialize};

/// The request for a VIP without its name, which is in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipBody {
    pub ip: IpAddr,
    /// Hosts that may hold it; empty: all.
    #[serde(default)]
    pub candidates: Vec<HostName>,
}
