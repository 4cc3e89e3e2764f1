//! The topology document: JSON that Romana 2.0 reads as well.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::command::Labels;
use crate::name::{HostName, NetworkName, TenantId};

/// The document. `PUT /v1/topology` accepts the output of `GET /v1/topology`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TopologySpec {
    /// Address ranges.
    pub networks: Vec<NetworkSpec>,
    /// How the networks are divided into groups.
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
    /// Tenants that may get addresses here; empty: all tenants.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub tenants: Vec<TenantId>,
    /// Skip the first and the last address of each block.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub skip_first_last: bool,
    /// Ignored on input (Romana 2.0 prints it).
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub revision: Option<u64>,
}

/// How networks are divided into groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MapSpec {
    /// Names of the networks. A network is in one map only.
    pub networks: Vec<NetworkName>,
    /// The groups. A single group gets the whole CIDR; several divide it evenly.
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
    /// If present, the element is a host.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub ip: Option<IpAddr>,
    /// Further addresses of a host.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub addresses: Vec<IpAddr>,
    /// Labels of a host; absent: those its groups require.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub labels: Option<Labels>,
    /// Nested groups, or hosts. Empty: a leaf group.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub groups: Option<Vec<GroupSpec>>,
    /// Hosts. `groups` and `hosts` exclude each other.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub hosts: Option<Vec<GroupSpec>>,
    /// Labels that a host must have to be placed here.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub assignment: Labels,
    /// How routes to it are announced; stored and displayed.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub routing: Option<String>,
    /// Output only: its CIDR. Ignored on input.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub cidr: Option<String>,
    /// Output only: padding. Such an element is ignored on input.
    #[cfg_attr(feature = "schema", schemars(skip_serializing_if = "says_nothing"))]
    pub dummy: Option<bool>,
}

/// A host that a document declares, and its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredHost {
    pub(crate) name: HostName,
    pub(crate) ip: IpAddr,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) labels: Option<Labels>,
}

impl TopologySpec {
    /// The same document with a separate map for each network: groups of two networks have different CIDRs, and a
    /// host may have different places in them.
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

/// Whether a field is omitted from the document in responses: the API removes it
/// (`controlplane/src/api/topology.rs`).
#[cfg(feature = "schema")]
fn says_nothing<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
