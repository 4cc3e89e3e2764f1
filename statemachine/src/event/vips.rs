//! Events about virtual IPs and routers.

use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{HostName, TableId, VipName, VipPoolName};

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

/// Why a VIP was moved. The wire form is frozen: append variants, never edit one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum VipReason {
    /// No host had it.
    First,
    /// The host that had it does not respond.
    HolderDown,
    /// The agent of its holder does not renew.
    HolderSilent,
    /// Its holder is being drained.
    HolderDraining,
    /// Its holder is not one of its candidates any more.
    HolderNotCandidate,
    /// Its holder has no link in the subnet of the VIP any more.
    HolderOffSubnet,
    /// Its holder was removed.
    HostRemoved,
    /// Another agent speaks for its holder.
    AgentReplaced,
    /// It got another address.
    AddressChanged,
    /// The request for it was removed.
    VipRemoved,
    /// The length of grants was changed; the holder stays.
    GrantChanged,
}

/// A VIP was moved from one host to another, or given to its first one, or taken from its last one. Since version 4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipPlaced {
    pub name: VipName,
    pub ip: IpAddr,
    /// The host that had it, if any.
    pub from: Option<HostName>,
    /// The host that has it from now on, if any.
    pub to: Option<HostName>,
    pub reason: VipReason,
    /// How long the holder may answer for it after each renewal, milliseconds.
    pub grant_ms: u64,
}

/// The pools of addresses for VIPs were set. Since version 4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipPoolsSet {
    /// By name.
    pub pools: Vec<VipPool>,
}

/// A pool of addresses for VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipPool {
    pub name: VipPoolName,
    /// In the order in which addresses are taken from them; no two overlap.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub ranges: Vec<IpNet>,
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
