//! `/v1/networks`: networks, and the utilization of their groups.

use ipnet::IpNet;
use romana_statemachine::GroupUsage;
use romana_statemachine::Labels;
use romana_statemachine::name::{NetworkName, TenantId};
use serde::{Deserialize, Serialize};

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Network {
    pub name: NetworkName,
    #[cfg_attr(feature = "schema", schemars(with = "romana_statemachine::schema::Cidr"))]
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    #[serde(default)]
    pub block_mask: u8,
    /// Tenants that may use it; empty: all.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// Whether the first and the last address of each block are not allocated.
    #[serde(default)]
    pub skip_first_last: bool,
    /// Its leaf groups.
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// A leaf group, and its utilization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Group {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels of the hosts in the group.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub assignment: Labels,
    #[serde(flatten)]
    pub usage: GroupUsage,
}
