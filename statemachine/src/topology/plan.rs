//! The plan of a topology change: what setting it would do. Setting it does exactly that (`tests/laws.rs`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::carve::{Network, Topology};
use super::change::Change;
use super::spec::TopologySpec;
use crate::event::HostPlaces;
use crate::name::{HostName, NetworkName, TenantId};
use crate::refusal::{Conflict, Refusal};
use crate::state::{Now, State};

/// What setting a topology would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopologyPlan {
    /// Whether anything would change.
    pub changed: bool,
    /// Why it would be refused; empty: it would be accepted.
    pub conflicts: Vec<Conflict>,
    /// The groups that would take hosts.
    pub groups: Vec<PlannedGroup>,
    /// Hosts that would move to another group.
    pub hosts_moved: Vec<PlannedMove>,
    /// Hosts that the document declares and that would be added.
    pub hosts_added: Vec<HostName>,
    /// Networks that are new.
    pub networks_added: Vec<NetworkName>,
    /// Networks that would be removed.
    pub networks_removed: Vec<NetworkName>,
    /// Networks that stay, with a different range, block size or tenants.
    pub networks_changed: Vec<PlannedChange>,
    /// Blocks that would move to another network.
    pub blocks_handed_over: Vec<PlannedHandover>,
    /// Empty blocks that would be released, because the topology has no place for them.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Cidr>"))]
    pub blocks_released: Vec<IpNet>,
    /// Blocks that would be kept.
    pub blocks_kept: u64,
    /// Live addresses that would be kept.
    pub addresses_kept: u64,
}

/// A network whose properties would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedChange {
    pub network: NetworkName,
    /// The current properties.
    pub from: PlannedNetwork,
    /// The new properties.
    pub to: PlannedNetwork,
}

/// The properties of a network, without its groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedNetwork {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_mask: u8,
    /// Tenants that may get addresses here; empty: all tenants.
    pub tenants: BTreeSet<TenantId>,
    /// Whether the first and last address of each block are skipped.
    pub skip_first_last: bool,
}

impl PlannedNetwork {
    /// The properties of a network.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        let Network { cidr, block_mask, ref tenants, skip_first_last, .. } = *network;
        Self { cidr, block_mask, tenants: tenants.clone(), skip_first_last }
    }
}

/// A group that would take hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedGroup {
    pub network: NetworkName,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    pub name: Option<String>,
    /// Number of hosts that it would have.
    pub hosts: u64,
}

/// Blocks that would move to another network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedHandover {
    /// The current network.
    pub from: NetworkName,
    /// The new network.
    pub to: NetworkName,
    /// Number of blocks.
    pub blocks: u64,
    /// Number of live addresses in them.
    pub addresses: u64,
}

/// A host that would move to another group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedMove {
    pub host: HostName,
    pub network: NetworkName,
    /// The current group.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Cidr>"))]
    pub from: Option<IpNet>,
    /// The new group.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Cidr>"))]
    pub to: Option<IpNet>,
}

impl State {
    /// What setting a topology would do, without doing it.
    ///
    /// # Errors
    /// The refusal of the document itself. Conflicts with existing objects are part of the plan.
    pub fn plan_topology(&self, spec: &TopologySpec) -> Result<TopologyPlan, Refusal> {
        let now = Now { at: self.at, term: self.term };
        Ok(Change::work_out(self, spec, now)?.plan(self))
    }
}

impl Change {
    pub(super) fn plan(self, state: &State) -> TopologyPlan {
        let changed = self.changed(state) || !self.added.is_empty() || !self.released.is_empty();
        let mut hosts: BTreeMap<IpNet, u64> = BTreeMap::new();
        let after = self.places.iter().map(|p| &p.places).chain(self.added.iter().map(|(_, p)| p));
        after.flatten().for_each(|place| *hosts.entry(place.group).or_default() += 1);
        let group = |network: &Network, leaf: &super::Group| PlannedGroup {
            network: network.name.clone(),
            cidr: leaf.cidr,
            name: leaf.name.clone(),
            hosts: hosts.get(&leaf.cidr).copied().unwrap_or(0),
        };
        let groups = |network| Network::leaves(network).map(move |leaf| (network, leaf));
        let networks = self.topology.networks().iter();
        let (networks_added, networks_removed, networks_changed) =
            networks_between(state.topology(), &self.topology);
        TopologyPlan {
            changed,
            networks_added,
            networks_removed,
            networks_changed,
            groups: networks.flat_map(groups).map(|(n, leaf)| group(n, leaf)).collect(),
            hosts_moved: self.places.iter().flat_map(|places| moves(state, places)).collect(),
            hosts_added: self.added.into_iter().map(|(spec, _)| spec.name).collect(),
            blocks_handed_over: self.handed_over.into_iter().map(handover).collect(),
            blocks_released: self.released.iter().map(|released| released.cidr).collect(),
            blocks_kept: self.kept.0,
            addresses_kept: self.kept.1,
            conflicts: self.conflicts,
        }
    }
}

fn handover(
    ((from, to), (blocks, addresses)): ((NetworkName, NetworkName), (u64, u64)),
) -> PlannedHandover {
    PlannedHandover { from, to, blocks, addresses }
}

/// The networks that another topology adds, removes and changes.
fn networks_between(
    before: Option<&Topology>,
    after: &Topology,
) -> (Vec<NetworkName>, Vec<NetworkName>, Vec<PlannedChange>) {
    let old = || before.into_iter().flat_map(Topology::networks);
    let known = |name: &NetworkName| before.and_then(|topology| topology.network(name));
    let new = after.networks().iter();
    let added = new.clone().filter(|network| known(&network.name).is_none());
    let removed = old().filter(|network| after.network(&network.name).is_none());
    let both = new.filter_map(|network| {
        let (from, to) = (PlannedNetwork::of(known(&network.name)?), PlannedNetwork::of(network));
        let network = network.name.clone();
        (from != to).then_some(PlannedChange { network, from, to })
    });
    let name = |network: &Network| network.name.clone();
    (added.map(name).collect(), removed.map(name).collect(), both.collect())
}

/// The networks in which a host's group would change.
fn moves(state: &State, after: &HostPlaces) -> Vec<PlannedMove> {
    let Some(host) = state.host(&after.host) else { return Vec::new() };
    let names = host.places.iter().chain(&after.places).map(|place| &place.network);
    let names: BTreeSet<_> = names.collect();
    let to = |name: &NetworkName| {
        after.places.iter().find(|place| place.network == *name).map(|place| place.group)
    };
    let moved = names.into_iter().map(|name| PlannedMove {
        host: host.name.clone(),
        network: name.clone(),
        from: host.place(name),
        to: to(name),
    });
    moved.filter(|moved| moved.from != moved.to).collect()
}
