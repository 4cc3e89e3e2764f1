//! Events about virtual IPs and routers.

use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{HostName, TableId, VipName};

/// A VIP is on a host, or its lease was renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipAssigned {
    pub name: VipName,
    pub ip: IpAddr,
    pub host: HostName,
    /// Length of the lease from the time of this event, milliseconds.
    pub lease_ms: u64,
}

/// A VIP is on no host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipUnassigned {
    pub name: VipName,
    pub ip: IpAddr,
    pub host: HostName,
}

/// A VIP is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipRemoved {
    pub name: VipName,
}

/// A host forwards for a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouterAssigned {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// A route table or a zone.
    pub table: TableId,
    pub host: HostName,
}

/// No host forwards for a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RouterUnassigned {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// A route table or a zone.
    pub table: TableId,
    pub host: HostName,
}
