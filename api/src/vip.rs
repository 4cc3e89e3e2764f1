//! `/v1/vips`, `/v1/vip-pools`, `/v1/hosts/{name}/vips`.

use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::Vip;
use romana_statemachine::command::{IpFamily, Source};
use romana_statemachine::name::{HostName, InstanceId, VipPoolName};
use serde::{Deserialize, Serialize};

/// A VIP, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SourcedVip {
    #[serde(flatten)]
    pub vip: Vip,
    /// The object of Kubernetes that asks for it, a Service; absent: an operator does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// A pool of addresses for VIPs, and its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VipPoolUsage {
    pub name: VipPoolName,
    /// In the order in which addresses are taken from them.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<romana_statemachine::schema::Cidr>"))]
    pub ranges: Vec<IpNet>,
    /// VIPs with an address of the pool.
    #[serde(default)]
    pub vips: u64,
}

/// The request for a VIP without its name, which is in the path: an address, or `auto` for one of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Whether the address is taken from a pool. A VIP that has one of it keeps that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto: bool,
    /// The pool; absent: any. Only with `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<VipPoolName>,
    /// The family of the address; absent: either. Only with `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<IpFamily>,
    /// Hosts that may hold it; empty: all.
    #[serde(default)]
    pub candidates: Vec<HostName>,
}

/// A host's renewal of its leases, sent by its agent ([`romana_statemachine::lease::VipRenewal`]). The host is in the
/// path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VipRenewalBody {
    /// The agent's instance. One that is not enrolled for the host is granted nothing.
    pub instance: InstanceId,
    /// Identifies the run of the agent.
    pub run: u64,
    /// Number of the renewal in this run.
    pub sequence: u64,
    /// Addresses that the host may answer for; it has given up all others.
    #[serde(default)]
    pub held: Vec<IpAddr>,
    /// Subnets of its links.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub subnets: Vec<IpNet>,
}
