//! The topology document: the seeds' JSON (Romana 2.0 reference §1.1).

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::command::Labels;
use crate::name::{HostName, NetworkName, TenantId};

/// The document. What `GET /v1/topology` prints is accepted by `PUT /v1/topology`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TopologySpec {
    /// Address ranges.
    pub networks: Vec<NetworkSpec>,
    /// Which networks are carved how.
    pub topologies: Vec<MapSpec>,
}

/// An address range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name. Unique.
    pub name: NetworkName,
    /// The range, as text. No host bits, no overlap with another network.
    pub cidr: String,
    /// Prefix length of blocks. Absent or 0: 29, or 122 for IPv6, or the CIDR's own if longer.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub block_mask: Option<u32>,
    /// Tenants that get addresses here, and nobody else; empty = everybody.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub tenants: Vec<TenantId>,
    /// Leave out the first and the last address of each block.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub skip_first_last: bool,
    /// Ignored on input (Romana 2.0 prints it).
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub revision: Option<u64>,
}

/// How networks are carved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MapSpec {
    /// Names of the networks. A network is in one map only.
    pub networks: Vec<NetworkName>,
    /// The groups: one = it owns the whole CIDR; several = they share it evenly.
    pub map: Vec<GroupSpec>,
}

/// A group, or (with `ip`) a host: 2.0 lists hosts under `groups`, the seeds under `hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct GroupSpec {
    /// Its name; required for a host.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub name: Option<String>,
    /// Makes it a host.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub ip: Option<IpAddr>,
    /// Further addresses of a host.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub addresses: Vec<IpAddr>,
    /// Labels of a host; absent = those its groups ask for.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub labels: Option<Labels>,
    /// Nested groups, or hosts. Empty = lowest level.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub groups: Option<Vec<GroupSpec>>,
    /// Hosts. Only one of `groups` and `hosts`.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub hosts: Option<Vec<GroupSpec>>,
    /// Labels that a host must have to be placed here.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub assignment: Labels,
    /// How routes to it are announced; kept and shown.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub routing: Option<String>,
    /// Output only: its CIDR. Ignored on input.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub cidr: Option<String>,
    /// Output only: padding. Such an element is left out on input.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub dummy: Option<bool>,
}

/// A host that a document declares, and in which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredHost {
    pub(crate) name: HostName,
    pub(crate) ip: IpAddr,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) labels: Option<Labels>,
}

impl TopologySpec {
    /// The same with a map of its own for each network: groups of two networks have different CIDRs,
    /// and a host need not be in the same place of both.
    pub(crate) fn per_network(&self) -> Self {
        let alone = |map: &MapSpec, network: &NetworkName| MapSpec {
            networks: alloc::vec![network.clone()],
            map: map.map.clone(),
        };
        let maps = self.topologies.iter();
        let maps = maps.flat_map(|map| map.networks.iter().map(move |name| alone(map, name)));
        Self { networks: self.networks.clone(), topologies: maps.collect() }
    }
}

impl GroupSpec {
    /// Whether the element is a host.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.ip.is_some()
    }
}

/// Whether a member is left out of the document that is shown: the API prunes it (`controlplane/src/api/topology.rs`).
#[cfg(feature = "schema")]
fn says_nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
