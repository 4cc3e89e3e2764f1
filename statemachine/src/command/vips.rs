//! Commands about virtual IPs and routers.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::entry::{Revision, Term};
use crate::event::VipReason;
use crate::name::{HostName, InstanceId, TableId, VipName, VipPoolName};

/// A virtual IP to be assigned to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// Its name (`<service>.<namespace>` when it comes from Kubernetes).
    pub name: VipName,
    pub ip: IpAddr,
    /// Hosts that may hold it; empty: any host that is up.
    #[serde(default)]
    pub candidates: Vec<HostName>,
}

/// A family of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum IpFamily {
    Ipv4,
    Ipv6,
}

/// A virtual IP whose address is taken from a pool, since version 4. A service with several addresses has a VIP for
/// each of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipFromPool {
    pub name: VipName,
    /// The pool; `None`: the first one, by name, with a free address.
    #[serde(default)]
    pub pool: Option<VipPoolName>,
    /// The family of the address; `None`: either.
    #[serde(default)]
    pub family: Option<IpFamily>,
    /// Hosts that may hold it; empty: any host that is up.
    #[serde(default)]
    pub candidates: Vec<HostName>,
}

/// The pools of addresses for VIPs, since version 4. They replace the current ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetVipPools {
    /// At most [`crate::limits::VIP_POOLS_MAX`].
    pub pools: Vec<VipPoolSpec>,
}

/// A pool of addresses for VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipPoolSpec {
    pub name: VipPoolName,
    /// As text, without host bits; at most [`crate::limits::VIP_POOL_RANGES_MAX`]. The first and the last address of a
    /// range of four or more are not given out: they may be those of the subnet and its broadcasts.
    pub ranges: Vec<String>,
}

/// The VIP to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipRef {
    pub name: VipName,
}

/// A VIP to assign to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AssignVip {
    pub name: VipName,
    pub host: HostName,
    /// The term in which the leader task decided.
    pub term: Term,
}

/// A VIP to unassign from its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnassignVip {
    pub name: VipName,
    /// The term in which the leader task decided.
    pub term: Term,
}

/// A VIP to move from one host to another, since version 4. Only for the leader's task: it knows which grants are
/// over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PlaceVip {
    pub name: VipName,
    /// The host that has it now, as the leader task saw it; `None`: no host. Refused if it is another one.
    pub from: Option<HostName>,
    /// Since which revision that has been so ([`crate::State::vip_since`]); `None`: not checked. Refused if it is
    /// another one: a command may be committed long after it was decided, and the VIP may have been removed, requested
    /// again, placed and taken away since.
    #[serde(default)]
    pub since: Option<Revision>,
    /// The host that is to have it; `None`: no host. The same as `from`: only the length of its grants changes.
    pub to: Option<HostName>,
    /// The agent that speaks for a host that gets it, as the leader task saw it. Refused if it is another one: the
    /// task has waited for the grants of all others.
    #[serde(default)]
    pub agent: Option<InstanceId>,
    pub reason: VipReason,
    /// The term in which the leader task decided.
    pub term: Term,
}

/// A router to assign to a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AssignRouter {
    #[serde(with = "crate::prefix::json")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// The route table or zone of the route.
    pub table: TableId,
    pub host: HostName,
    /// The term in which the leader task decided.
    pub term: Term,
}

/// A router to withdraw from a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnassignRouter {
    #[serde(with = "crate::prefix::json")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// The route table or zone of the route.
    pub table: TableId,
    /// The term in which the leader task decided.
    pub term: Term,
}
