//! Replaces a topology that is in use: all existing objects are kept, or the whole change is refused with a list of
//! conflicts.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use super::carve::{Built, Declared, Network, Topology};
use super::spec::{GroupSpec, TopologySpec};
use super::zone_labels::both_names;
use crate::address;
use crate::command::{HostSource, HostSpec};
use crate::event::{BlockReleased, Event, HostPlaces, Place, TopologySet};
use crate::host::{self, Host, Placement};
use crate::ipam::Block;
use crate::limits::CONFLICTS_LISTED_MAX;
use crate::name::{HostName, NetworkName};
use crate::prefix;
use crate::refusal::{Conflict, Refusal};
use crate::state::{Now, State};
use crate::version;

pub(crate) fn decide_set(
    state: &State,
    spec: &TopologySpec,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    let change = Change::work_out(state, spec, now)?;
    if change.conflicts.is_empty() {
        return Ok(change.events(state));
    }
    let total = change.conflicts.len() as u64;
    let mut conflicts = change.conflicts;
    conflicts.truncate(CONFLICTS_LISTED_MAX);
    Err(Refusal::TopologyConflicts { conflicts, total })
}

pub(crate) fn evolve_set(state: &mut State, event: &TopologySet) {
    // `decide` carved the same document; carving is deterministic across versions.
    let Ok(Built { topology, .. }) = Topology::build(&event.topology) else { return };
    let placed = |HostPlaces { host, places }: &HostPlaces| {
        let host = host::take(state, host)?;
        Some(Host { places: places.clone(), ..host })
    };
    let hosts: Vec<_> = event.hosts.iter().filter_map(placed).collect();
    state.ipam.adopt(&topology);
    state.topology = Some(Arc::new(topology));
    hosts.into_iter().for_each(|host| host::insert(state, host));
}

impl State {
    /// The topology as a document: as it was set, with one map per network, the CIDRs of its groups, and their hosts.
    #[must_use]
    pub fn topology_document(&self) -> Option<TopologySpec> {
        let topology = self.topology()?;
        let mut spec = topology.spec.per_network();
        for map in &mut spec.topologies {
            let first = map.networks.first().and_then(|name| topology.network(name));
            let Some(network) = first else { continue };
            let mut groups = network.groups.iter().filter(|group| !group.padding);
            let mut fill = Fill { state: self, network };
            for spec in &mut map.map {
                fill.group(spec, &mut groups);
            }
        }
        Some(spec)
    }
}

/// Adds computed values to the groups of a document, in the order in which they were carved.
struct Fill<'a> {
    state: &'a State,
    network: &'a Network,
}

impl<'a> Fill<'a> {
    fn group(&mut self, spec: &mut GroupSpec, groups: &mut impl Iterator<Item = &'a super::Group>) {
        let Some(group) = groups.next() else { return };
        spec.cidr = Some(format!("{}", group.cidr));
        for inner in spec.groups.iter_mut().flatten() {
            self.group(inner, groups);
        }
        if group.leaf {
            let name = &self.network.name;
            let hosts = self.state.hosts().filter(|host| host.place(name) == Some(group.cidr));
            let hosts: Vec<_> = hosts.map(host_element).collect();
            if !hosts.is_empty() {
                spec.groups = None;
                spec.hosts = Some(hosts);
            }
        }
    }
}

fn host_element(host: &Host) -> GroupSpec {
    GroupSpec {
        name: Some(String::from(host.name.as_str())),
        ip: Some(host.ip),
        addresses: host.addresses.clone(),
        labels: Some(host.labels.clone()),
        ..GroupSpec::default()
    }
}

/// A topology change under evaluation.
pub(super) struct Change {
    pub(super) topology: Topology,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) places: Vec<HostPlaces>,
    pub(super) added: Vec<(HostSpec, Vec<Place>)>,
    pub(super) released: Vec<BlockReleased>,
    pub(super) kept: (u64, u64),
    /// Blocks and live addresses that move from one network to another.
    pub(super) handed_over: BTreeMap<(NetworkName, NetworkName), (u64, u64)>,
}

type Pins = BTreeMap<(HostName, NetworkName), IpNet>;

impl Change {
    pub(super) fn work_out(state: &State, spec: &TopologySpec, now: Now) -> Result<Self, Refusal> {
        let Built { topology, declared } = Topology::build(spec)?;
        let is_new = |network: &&Network| {
            let before = state.topology().and_then(|topology| topology.network(&network.name));
            state.version >= version::ADDRESS_CHECKS
                && before.is_none_or(|b| b.cidr != network.cidr)
        };
        check_ranges(spec, topology.networks().iter().filter(is_new))?;
        let mut change = Self {
            topology,
            conflicts: Vec::new(),
            places: Vec::new(),
            added: Vec::new(),
            released: Vec::new(),
            kept: (0, 0),
            handed_over: BTreeMap::new(),
        };
        change.check_blackouts(state);
        change.check_users(state, &declared);
        let mut pins = change.pin_blocks(state, now);
        change.pin_declared(state, &declared, &mut pins)?;
        change.place_hosts(state, &declared, &pins);
        Ok(change)
    }

    fn conflict(&mut self, subject: String, reason: String) {
        self.conflicts.push(Conflict { subject, reason });
    }

    fn check_blackouts(&mut self, state: &State) {
        for cidr in state.ipam.blackouts() {
            let network = self.topology.network_around(cidr);
            if network.is_none_or(|network| cidr.contains(&network.cidr)) {
                let reason = format!("blackout {cidr} would not lie inside one network");
                self.conflict(format!("blackout {cidr}"), reason);
            }
        }
    }

    /// A network must not cover addresses of hosts or services. One that already does is a finding of `ipam check`,
    /// and does not prevent other changes.
    fn check_users(&mut self, state: &State, declared: &BTreeMap<HostName, Declared>) {
        if state.version < version::ADDRESS_CHECKS {
            return;
        }
        let covered = |ip: IpAddr| {
            let around = |topology: &Topology| topology.network_around(ip.into()).is_some();
            state.topology().is_some_and(around) || state.ipam.blackout_of(ip).is_some()
        };
        let mut found = Vec::new();
        let declared = declared.iter().filter(|(name, _)| state.host(name).is_none());
        let new = declared.flat_map(|(name, declared)| {
            let host = &declared.host;
            core::iter::once(&host.ip).chain(&host.addresses).map(move |ip| (*ip, name))
        });
        let known = state.host_addresses.iter().map(|(ip, name)| (*ip, name));
        for (ip, host) in known.filter(|(ip, _)| !covered(*ip)).chain(new) {
            if let Some(network) = self.topology.network_around(ip.into()) {
                let Network { name, cidr, .. } = network;
                found.push((
                    host,
                    format!("network {name} ({cidr}) would cover {ip} of host {host}"),
                ));
            }
        }
        let found: Vec<_> = found.into_iter().map(|(h, why)| (format!("host {h}"), why)).collect();
        found.into_iter().for_each(|(subject, reason)| self.conflict(subject, reason));
        for range in state.service_ranges() {
            let around = |network: &&Network| prefix::overlap(network.cidr, range);
            let before = state.topology().is_some_and(|t| t.networks().iter().any(|n| around(&n)));
            let network = self.topology.networks().iter().find(around).filter(|_| !before);
            let why = network.map(|network| {
                let Network { name, cidr, .. } = network;
                format!("network {name} ({cidr}) would share addresses with services ({range})")
            });
            why.into_iter().for_each(|why| self.conflict(format!("services {range}"), why));
        }
    }

    /// Finds the group of each block, which pins its host there. Blocks without a live address are released if the
    /// new topology has no place for them.
    fn pin_blocks(&mut self, state: &State, now: Now) -> Pins {
        let mut pins = Pins::new();
        for block in state.ipam.blocks() {
            match self.home(state, block, &pins) {
                Ok((network, group)) => {
                    let from = &block.owner().network;
                    if *from != network {
                        let key = (from.clone(), network.clone());
                        let handed = self.handed_over.entry(key).or_default();
                        *handed = (handed.0 + 1, handed.1 + block.live);
                    }
                    pins.insert((block.owner().host.clone(), network), group);
                    self.kept = (self.kept.0 + 1, self.kept.1 + block.live);
                }
                Err(_) if block.live == 0 => {
                    let delay = state.settings.address_reuse_delay_ms;
                    let emptied = block.empty_since.unwrap_or(now.at);
                    self.released.push(BlockReleased {
                        cidr: block.cidr,
                        host: block.owner().host.clone(),
                        reusable_at: emptied.plus(delay).max(now.at),
                    });
                }
                Err(why) => {
                    let (cidr, live) = (block.cidr, block.live);
                    let host = &block.owner().host;
                    let reason = format!("block {cidr} of host {host} ({live} live): {why}");
                    self.conflict(format!("block {cidr}"), reason);
                }
            }
        }
        pins
    }

    /// The network and group that would contain a block, or why it cannot be kept.
    fn home(
        &self,
        state: &State,
        block: &Block,
        pins: &Pins,
    ) -> Result<(NetworkName, IpNet), String> {
        let owner = block.owner();
        let network = self.topology.network_around(block.cidr);
        let network = network.ok_or_else(|| String::from("it is in no network"))?;
        let name = &network.name;
        if network.block_mask != block.cidr.prefix_len() {
            return Err(format!("blocks of network {name} are /{}", network.block_mask));
        }
        if !network.admits(&owner.tenant) {
            return Err(format!("network {name} is not for tenant {}", owner.tenant));
        }
        let leaf = network.leaf_around(block.cidr);
        let leaf = leaf.ok_or_else(|| format!("no group of network {name} has hosts there"))?;
        let host = state.host(&owner.host);
        let takes = |host: &Host| leaf.takes(&both_names(state.version, &host.labels));
        if !host.is_some_and(takes) {
            return Err(format!("group {} asks for labels that the host has not", leaf.cidr));
        }
        let pinned = pins.get(&(owner.host.clone(), name.clone()));
        if let Some(other) = pinned.filter(|other| **other != leaf.cidr) {
            return Err(format!("the host has blocks in group {other} as well as {}", leaf.cidr));
        }
        let skipped = |offset| Block::skips(block.cidr, network.skip_first_last, offset);
        let mut live = state.ipam.addresses_in(block.cidr);
        if live.any(|address| skipped(prefix::offset(block.cidr, address.ip))) {
            return Err(format!("network {name} leaves out addresses that are live"));
        }
        Ok((name.clone(), leaf.cidr))
    }

    /// Pins declared hosts to their declared groups, and records which are new.
    fn pin_declared(
        &mut self,
        state: &State,
        declared: &BTreeMap<HostName, Declared>,
        pins: &mut Pins,
    ) -> Result<(), Refusal> {
        let mut seen = BTreeMap::new();
        for (name, declared) in declared {
            let host = &declared.host;
            let labels = host.labels.as_ref().unwrap_or(&declared.requires);
            crate::labels::check(labels)?;
            host::check_addresses(state, name, host.ip, &host.addresses)?;
            if state.host(name).is_none() {
                host::check_fresh(state, name, host.ip, &host.addresses)?;
            }
            for ip in core::iter::once(&host.ip).chain(&host.addresses) {
                if let Some(other) = seen.insert(*ip, name) {
                    return Err(Refusal::HostAddressInUse { ip: *ip, host: other.clone() });
                }
            }
            if let Some(known) = state.host(name) {
                let other_labels = host.labels.as_ref().is_some_and(|l| *l != known.labels);
                if known.ip != host.ip || known.addresses != host.addresses || other_labels {
                    let reason = format!(
                        "host {name} exists with other addresses or labels: change it first"
                    );
                    self.conflict(format!("host {name}"), reason);
                }
            }
            let labels = state.host(name).map_or(labels, |known| &known.labels);
            let labels = &*both_names(state.version, labels);
            for (network, group) in &declared.leaves {
                let takes = self.topology.network(network).and_then(|n| n.leaf(*group));
                if !takes.is_some_and(|leaf| leaf.takes(labels)) {
                    let reason = format!("host {name} lacks labels that group {group} asks for");
                    self.conflict(format!("host {name}"), reason);
                }
                let key = (name.clone(), network.clone());
                let pinned = pins.insert(key, *group);
                if let Some(other) = pinned.filter(|other| other != group) {
                    let reason =
                        format!("host {name} is declared in {group} but has blocks in {other}");
                    self.conflict(format!("host {name}"), reason);
                }
            }
        }
        Ok(())
    }

    /// Places every host: where it is pinned; otherwise where it was; otherwise in the group with the fewest hosts.
    fn place_hosts(&mut self, state: &State, declared: &BTreeMap<HostName, Declared>, pins: &Pins) {
        let mut placement = Placement::empty();
        let mut settled: BTreeMap<HostName, BTreeMap<NetworkName, IpNet>> = BTreeMap::new();
        for ((host, network), group) in pins {
            settled.entry(host.clone()).or_default().insert(network.clone(), *group);
        }
        for host in state.hosts() {
            let labels = both_names(state.version, &host.labels);
            let places = settled.entry(host.name.clone()).or_default();
            for network in self.topology.networks() {
                let group = host.place(&network.name).and_then(|group| network.leaf(group));
                if let Some(leaf) = group.filter(|leaf| leaf.takes(&labels)) {
                    places.entry(network.name.clone()).or_insert(leaf.cidr);
                }
            }
        }
        settled.values().flat_map(BTreeMap::values).for_each(|group| placement.add(*group));
        for host in state.hosts() {
            let places = settled.remove(&host.name).unwrap_or_default();
            let labels = both_names(state.version, &host.labels);
            let places = self.complete(places, &labels, &mut placement);
            if places.is_empty() {
                let reason = format!("no group of any network would take host {}", host.name);
                self.conflict(format!("host {}", host.name), reason);
            }
            self.places.push(HostPlaces { host: host.name.clone(), places });
        }
        for (name, declared) in declared.iter().filter(|(name, _)| state.host(name).is_none()) {
            let spec = new_host(declared);
            let places = settled.remove(name).unwrap_or_default();
            let labels = both_names(state.version, &spec.labels);
            let places = self.complete(places, &labels, &mut placement);
            self.added.push((spec, places));
        }
    }

    /// Adds places in the networks where a host has none yet.
    fn complete(
        &self,
        mut settled: BTreeMap<NetworkName, IpNet>,
        labels: &crate::Labels,
        placement: &mut Placement,
    ) -> Vec<Place> {
        let mut places = Vec::new();
        for network in self.topology.networks() {
            let known = settled.remove(&network.name);
            let group = known.or_else(|| {
                let group = placement.choose(network, labels)?;
                placement.add(group);
                Some(group)
            });
            places.extend(group.map(|group| Place { network: network.name.clone(), group }));
        }
        places
    }

    pub(super) fn changed(&self, state: &State) -> bool {
        let moved = |places: &HostPlaces| {
            state.host(&places.host).is_some_and(|host| host.places != places.places)
        };
        state
            .topology()
            .is_none_or(|now| now.spec.per_network() != self.topology.spec.per_network())
            || self.places.iter().any(moved)
    }

    fn events(self, state: &State) -> Vec<Event> {
        let changed = self.changed(state);
        let mut events: Vec<_> = self.released.into_iter().map(Event::BlockReleased).collect();
        if changed {
            let (topology, hosts) = (self.topology.spec, self.places);
            events.push(Event::TopologySet(TopologySet { topology, hosts }));
        }
        events.extend(self.added.into_iter().map(|(spec, places)| host::added(&spec, places)));
        events
    }
}

/// Refuses networks in special-purpose ranges, and ranges in a notation that other programs read differently.
fn check_ranges<'a>(
    spec: &TopologySpec,
    networks: impl Iterator<Item = &'a Network>,
) -> Result<(), Refusal> {
    for network in networks {
        let mut specs = spec.networks.iter();
        let text = specs.find(|spec| spec.name == network.name).map(|spec| &spec.cidr);
        text.map_or(Ok(network.cidr), |text| prefix::parse(text))?;
        address::check_range(network.cidr)?;
    }
    Ok(())
}

fn new_host(declared: &Declared) -> HostSpec {
    let host = &declared.host;
    HostSpec {
        name: host.name.clone(),
        ip: host.ip,
        addresses: host.addresses.clone(),
        labels: host.labels.clone().unwrap_or_else(|| declared.requires.clone()),
        info: crate::Labels::new(),
        source: HostSource::Topology,
    }
}
