//! Commands about virtual IPs and routers.

use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::entry::Term;
use crate::name::{HostName, TableId, VipName};

/// A virtual IP that somebody wants answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// Its name (`<service>.<namespace>` when it comes from Kubernetes).
    pub name: VipName,
    pub ip: IpAddr,
    /// Hosts that may answer; empty = any host that is up.
    #[serde(default)]
    pub candidates: Vec<HostName>,
}

/// Which VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipRef {
    pub name: VipName,
}

/// A VIP to put on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AssignVip {
    pub name: VipName,
    pub host: HostName,
    /// The term in which the task decided.
    pub term: Term,
}

/// A VIP to take off its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnassignVip {
    pub name: VipName,
    /// The term in which the task decided.
    pub term: Term,
}

/// A router to assign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AssignRouter {
    #[serde(with = "crate::prefix::json")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// The route table or zone that the route is in.
    pub table: TableId,
    pub host: HostName,
    /// The term in which the task decided.
    pub term: Term,
}

/// A router to withdraw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UnassignRouter {
    #[serde(with = "crate::prefix::json")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// A route table or a zone.
    pub table: TableId,
    /// The term in which the task decided.
    pub term: Term,
}
