//! Events about virtual IPs and routers.

use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{HostName, TableId, VipName};

/// A VIP was assigned to a host, or its lease was renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipAssigned {
    pub name: VipName,
    pub ip: IpAddr,
    pub host: HostName,
    /// Length of the lease from the time of this event, milliseconds.
    pub lease_ms: u64,
}

/// A VIP was unassigned from its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipUnassigned {
    pub name: VipName,
    pub ip: IpAddr,
    pub host: HostName,
}

/// The request for a VIP was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipRemoved {
    pub name: VipName,
}

/// A host became the router of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouterAssigned {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// The route table or zone of the route.
    pub table: TableId,
    pub host: HostName,
}

/// The router of a prefix was withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouterUnassigned {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// The route table or zone of the route.
    pub table: TableId,
    pub host: HostName,
}
