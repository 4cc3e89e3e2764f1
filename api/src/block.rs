//! `/v1/blocks` and `/v1/blackouts`.

use ipnet::IpNet;
use romana_statemachine::name::{HostName, NetworkName, SegmentId, TenantId};
use serde::{Deserialize, Serialize};

/// A block assigned to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Block {
    #[cfg_attr(feature = "schema", schemars(with = "romana_statemachine::schema::Cidr"))]
    pub cidr: IpNet,
    pub network: NetworkName,
    /// The leaf group that contains it.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<romana_statemachine::schema::Cidr>"))]
    pub group: Option<IpNet>,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// Number of live addresses in it.
    #[serde(default)]
    pub live: u64,
}

impl From<&romana_statemachine::Block> for Block {
    fn from(block: &romana_statemachine::Block) -> Self {
        let owner = block.owner();
        Self {
            cidr: block.cidr,
            network: owner.network.clone(),
            group: Some(block.group),
            host: owner.host.clone(),
            tenant: owner.tenant.clone(),
            segment: owner.segment.clone(),
            live: block.live,
        }
    }
}

/// A range excluded from allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Blackout {
    #[cfg_attr(feature = "schema", schemars(with = "romana_statemachine::schema::Cidr"))]
    pub cidr: IpNet,
}
