//! `/v1/networks`: networks, and how full their groups are.

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
    /// Whose it is; empty: everybody's.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// Whether the first and the last address of each block are left out.
    #[serde(default)]
    pub skip_first_last: bool,
    /// Its leaf groups.
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// A leaf group, and how full it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Group {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels that hosts of the group have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub assignment: Labels,
    #[serde(flatten)]
    pub usage: GroupUsage,
}
