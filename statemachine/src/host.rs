//! Hosts, and their places: a prefix group in each network.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address;
use crate::command::{HostChange, HostSource, HostSpec, HostState, RemoveHost, SetHostState};
use crate::entry::Revision;
use crate::event::{EndpointRemoved, Event, HostAdded, HostRef, HostRemoved, HostUpdated, Place};
use crate::hash::Hash;
use crate::hold;
use crate::ipam;
use crate::labels::{self, Labels};
use crate::limits::HOST_ADDRESSES_MAX;
use crate::name::{HostName, NetworkName};
use crate::refusal::Refusal;
use crate::source;
use crate::state::{Now, State};
use crate::topology::{Network, Topology, both_names};
use crate::version;
use crate::vip;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Host {
    pub name: HostName,
    /// Its address in the physical network.
    pub ip: IpAddr,
    /// Further addresses.
    pub addresses: Vec<IpAddr>,
    pub labels: Labels,
    /// Free-form facts.
    pub info: Labels,
    pub source: HostSource,
    /// Whether it may be assigned VIPs and routes.
    pub state: HostState,
    /// Its leaf group in each network with an eligible one.
    pub places: Vec<Place>,
    pub added: Revision,
}

impl Host {
    /// Its leaf group in a network.
    #[must_use]
    pub fn place(&self, network: &NetworkName) -> Option<IpNet> {
        self.places.iter().find(|place| place.network == *network).map(|place| place.group)
    }

    /// All its addresses in the physical network.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        core::iter::once(self.ip).chain(self.addresses.iter().copied())
    }
}

impl HostName {
    /// Whether DNS takes both for the same name: they differ in case or a trailing dot at most.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        in_dns(self.as_str()).eq(in_dns(other.as_str()))
    }
}

/// All hosts, ordered by name, with an index by hash of the name: every allocation looks up its host, and comparing
/// strings down a tree costs several times as much.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    by_name: OrdMap<HostName, Arc<Host>>,
    /// The host inserted last with each hash.
    by_hash: OrdMap<u64, Arc<Host>>,
    /// Names by the hash of their lower-case form.
    folded: OrdSet<(u64, HostName)>,
}

impl Hosts {
    /// The host belongs to Kubernetes from now on.
    pub(crate) fn import(&mut self, name: &HostName) {
        let own = self.get(name).filter(|host| host.source != HostSource::Kubernetes);
        if let Some(host) = own.map(|host| Host::clone(host)) {
            self.insert(Arc::new(Host { source: HostSource::Kubernetes, ..host }));
        }
    }

    pub(crate) fn get(&self, name: &HostName) -> Option<&Arc<Host>> {
        let found = self.by_hash.get(&Hash::of(name.as_str()));
        found.filter(|host| host.name == *name).or_else(|| self.by_name.get(name))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.by_name.values()
    }

    /// A host whose name differs only in case or a trailing dot: DNS, which often resolves host names, treats them as
    /// equal.
    pub(crate) fn like(&self, name: &HostName) -> Option<&Arc<Host>> {
        let hash = folded(name);
        let alike = self.folded.range((hash, HostName::from(""))..);
        let mut alike = alike.take_while(|(other, _)| *other == hash).map(|(_, other)| other);
        let other = alike.find(|other| *other != name && other.is_alike(name))?;
        self.get(other)
    }

    fn insert(&mut self, host: Arc<Host>) {
        self.by_hash.insert(Hash::of(host.name.as_str()), Arc::clone(&host));
        self.folded.insert((folded(&host.name), host.name.clone()));
        self.by_name.insert(host.name.clone(), host);
    }

    fn remove(&mut self, name: &HostName) -> Option<Arc<Host>> {
        let hash = Hash::of(name.as_str());
        if self.by_hash.get(&hash).is_some_and(|host| host.name == *name) {
            self.by_hash.remove(&hash);
        }
        self.folded.remove(&(folded(name), name.clone()));
        self.by_name.remove(name)
    }
}

fn folded(name: &HostName) -> u64 {
    Hash::of(&in_dns(name.as_str()).collect::<String>())
}

/// A name as DNS compares it: ignoring case and the trailing dot of a fully qualified name.
pub(crate) fn in_dns(name: &str) -> impl Iterator<Item = char> + '_ {
    name.strip_suffix('.').unwrap_or(name).chars().map(|c| c.to_ascii_lowercase())
}

pub(crate) fn decide_add(state: &State, spec: &HostSpec) -> Result<Vec<Event>, Refusal> {
    spec.name.check()?;
    labels::check(&spec.labels)?;
    labels::check(&spec.info)?;
    check_addresses(state, &spec.name, spec.ip, &spec.addresses)?;
    if let Some(host) = state.host(&spec.name) {
        let same = host.ip == spec.ip
            && host.addresses == spec.addresses
            && host.labels == spec.labels
            && host.info == spec.info
            && host.source == spec.source;
        let exists = Refusal::HostExists { host: host.name.clone(), ip: host.ip };
        return if same { Ok(Vec::new()) } else { Err(exists) };
    }
    check_fresh(state, &spec.name, spec.ip, &spec.addresses)?;
    let topology = state.topology().ok_or(Refusal::NoTopology)?;
    let places = Placement::of(state).place(topology, &both_names(state.version, &spec.labels));
    if places.is_empty() {
        return Err(Refusal::NoGroupForHost { host: spec.name.clone() });
    }
    Ok(vec![added(spec, places)])
}

/// Checks for a new host from version 4 on: its name is unique, also in DNS, and its addresses are unused.
pub(crate) fn check_fresh(
    state: &State,
    name: &HostName,
    ip: IpAddr,
    addresses: &[IpAddr],
) -> Result<(), Refusal> {
    if state.version < version::ADDRESS_CHECKS {
        return Ok(());
    }
    let mut ips = core::iter::once(ip).chain(addresses.iter().copied());
    let reads_as: Option<IpAddr> = name.as_str().parse().ok();
    if reads_as.is_some_and(|named| !ips.clone().any(|ip| ip == named)) {
        return Err(Refusal::NameReadsAsAddress { name: name.to_string() });
    }
    if let Some(other) = state.hosts.like(name) {
        return Err(Refusal::HostDiffersInCase { host: name.clone(), other: other.name.clone() });
    }
    ips.try_for_each(|ip| check_taken(state, name, ip))
}

/// The same checks for the changed properties of a host; unchanged ones are not checked again.
fn check_changed(state: &State, host: &Host, next: &Host) -> Result<(), Refusal> {
    if state.version < version::ADDRESS_CHECKS {
        return Ok(());
    }
    let has = |host: &Host, ip: IpAddr| host.ips().any(|own| own == ip);
    let called: Option<IpAddr> = host.name.as_str().parse().ok();
    if called.is_some_and(|ip| has(host, ip) && !has(next, ip)) {
        return Err(Refusal::NameReadsAsAddress { name: host.name.to_string() });
    }
    let mut new = next.ips().filter(|ip| !has(host, *ip));
    new.try_for_each(|ip| check_taken(state, &host.name, ip))
}

/// Refuses an address that is already in use, or that is the name of another host.
fn check_taken(state: &State, host: &HostName, ip: IpAddr) -> Result<(), Refusal> {
    address::check_host(state, host, ip)?;
    let called = HostName::from(ip.to_string());
    match state.host(&called).filter(|other| other.name != *host) {
        None => Ok(()),
        Some(_) => Err(Refusal::AddressTaken { ip, by: format!("host {called} as its name") }),
    }
}

/// The event that adds a host with these places.
pub(crate) fn added(spec: &HostSpec, places: Vec<Place>) -> Event {
    let HostSpec { name, ip, addresses, labels, info, source } = spec.clone();
    Event::HostAdded(HostAdded { name, ip, addresses, labels, info, source, places })
}

pub(crate) fn decide_update(state: &State, change: &HostChange) -> Result<Vec<Event>, Refusal> {
    let host = find(state, &change.name)?;
    let mut next = host.clone();
    next.ip = change.ip.unwrap_or(host.ip);
    next.addresses.clone_from(change.addresses.as_ref().unwrap_or(&host.addresses));
    next.info.clone_from(change.info.as_ref().unwrap_or(&host.info));
    labels::check(&next.info)?;
    check_addresses(state, &host.name, next.ip, &next.addresses)?;
    check_changed(state, host, &next)?;
    if let Some(labels) = &change.labels {
        labels::check(labels)?;
        next.labels.clone_from(labels);
        next.places = places_with(state, host, labels)?;
    }
    if next == *host {
        return Ok(Vec::new());
    }
    let Host { name, ip, addresses, labels, info, places, .. } = next;
    Ok(vec![Event::HostUpdated(HostUpdated { name, ip, addresses, labels, info, places })])
}

/// Adds a host that comes from Kubernetes, or changes it. Of an operator's host only the info changes, as the operator
/// chose its labels and addresses; it must have the address that Kubernetes knows it by.
pub(crate) fn decide_import(state: &State, spec: &HostSpec) -> Result<Vec<Event>, Refusal> {
    let Some(host) = state.host(&spec.name) else {
        return decide_add(state, &HostSpec { source: HostSource::Kubernetes, ..spec.clone() });
    };
    let mut info = host.info.clone();
    info.extend(spec.info.clone());
    let name = spec.name.clone();
    let mut change = HostChange { name, ip: None, addresses: None, labels: None, info: Some(info) };
    if source::is_importable(host) {
        change.ip = Some(spec.ip);
        change.addresses = Some(spec.addresses.clone());
        change.labels = (host.labels != spec.labels).then(|| spec.labels.clone());
    } else if host.ips().all(|ip| ip != spec.ip) {
        return Err(Refusal::HostExists { host: host.name.clone(), ip: host.ip });
    }
    decide_update(state, &change)
}

/// A host's places with new labels: it keeps its groups where still eligible, and moves only where it has no block.
fn places_with(state: &State, host: &Host, labels: &Labels) -> Result<Vec<Place>, Refusal> {
    let topology = state.topology().ok_or(Refusal::NoTopology)?;
    let labels = &*both_names(state.version, labels);
    let placement = Placement::of(state);
    let mut places = Vec::new();
    for network in topology.networks() {
        let old = host.place(&network.name);
        let stays = old.filter(|cidr| network.leaf(*cidr).is_some_and(|leaf| leaf.takes(labels)));
        let group = match (stays, old) {
            (Some(group), _) => Some(group),
            (None, Some(group)) if has_blocks(state, &host.name, group) => {
                return Err(Refusal::LabelsLeaveGroup { host: host.name.clone(), group });
            }
            (None, _) => placement.choose(network, labels),
        };
        places.extend(group.map(|group| Place { network: network.name.clone(), group }));
    }
    if places.is_empty() {
        return Err(Refusal::NoGroupForHost { host: host.name.clone() });
    }
    Ok(places)
}

fn has_blocks(state: &State, host: &HostName, group: IpNet) -> bool {
    state.ipam.host_blocks(host).any(|cidr| group.contains(&cidr))
}

pub(crate) fn decide_state(state: &State, change: &SetHostState) -> Result<Vec<Event>, Refusal> {
    let host = find(state, &change.name)?;
    if host.state == change.state {
        return Ok(Vec::new());
    }
    let host = HostRef { name: host.name.clone() };
    Ok(vec![match change.state {
        HostState::Up => Event::HostUp(host),
        HostState::Down => Event::HostDown(host),
        HostState::Draining => Event::HostDraining(host),
    }])
}

pub(crate) fn decide_remove(
    state: &State,
    remove: &RemoveHost,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    let host = find(state, &remove.name)?;
    let addresses = state.ipam.host_addresses(&host.name).count() as u64;
    if addresses > 0 && !remove.force {
        return Err(Refusal::HostInUse { host: host.name.clone(), addresses });
    }
    let mut events = vip::release_host(state, &host.name);
    let endpoints = state.endpoints().filter(|endpoint| endpoint.host == host.name);
    events.extend(endpoints.map(|endpoint| {
        let (ip, host) = (endpoint.ip, endpoint.host.clone());
        Event::EndpointRemoved(EndpointRemoved { ip, host })
    }));
    events.extend(ipam::evict(state, &host.name, now));
    let (name, evicted) = (host.name.clone(), addresses > 0);
    events.push(Event::HostRemoved(HostRemoved { name, evicted }));
    events.extend(hold::resumed_without(state, &remove.name));
    Ok(events)
}

fn find<'a>(state: &'a State, name: &HostName) -> Result<&'a Host, Refusal> {
    name.check()?;
    state.host(name).ok_or_else(|| not_found(state, name))
}

/// The refusal for an unknown host: suggests a host with a similar name.
pub(crate) fn not_found(state: &State, name: &HostName) -> Refusal {
    let like = state.hosts.like(name).filter(|_| state.version >= version::ADDRESS_CHECKS);
    match like.map(|other| other.name.clone()) {
        Some(other) => Refusal::HostDiffersInCase { host: name.clone(), other },
        None => Refusal::HostNotFound { host: name.clone() },
    }
}

/// Checks that addresses are valid for a host and that no other host has them.
pub(crate) fn check_addresses(
    state: &State,
    host: &HostName,
    ip: IpAddr,
    addresses: &[IpAddr],
) -> Result<(), Refusal> {
    if addresses.len() >= HOST_ADDRESSES_MAX {
        let (size, max) = (addresses.len() as u64 + 1, HOST_ADDRESSES_MAX as u64);
        return Err(Refusal::TooLarge { field: "addresses".to_string(), size, max });
    }
    for (position, ip) in core::iter::once(&ip).chain(addresses).enumerate() {
        check_unicast(*ip)?;
        if addresses.iter().skip(position).any(|other| other == ip) {
            let why = "it is given twice".to_string();
            return Err(Refusal::InvalidAddress { ip: *ip, why });
        }
        if let Some(other) = state.host_addresses.get(ip).filter(|other| *other != host) {
            return Err(Refusal::HostAddressInUse { ip: *ip, host: other.clone() });
        }
        if let Some(vip) = vip::at(state, *ip) {
            return Err(Refusal::VipAddressInUse { ip: *ip, by: format!("VIP {}", vip.name) });
        }
    }
    Ok(())
}

/// Refuses addresses that are not valid unicast addresses.
pub(crate) fn check_unicast(ip: IpAddr) -> Result<(), Refusal> {
    let broadcast = IpAddr::from([255, 255, 255, 255]);
    if ip.is_unspecified() || ip.is_multicast() || ip == broadcast {
        let why = "it is unspecified, multicast or broadcast".to_string();
        return Err(Refusal::InvalidAddress { ip, why });
    }
    Ok(())
}

/// Chooses the eligible group with the fewest hosts; among equals, the first.
pub(crate) struct Placement {
    hosts: BTreeMap<IpNet, u64>,
}

impl Placement {
    /// Counts the current hosts.
    pub(crate) fn of(state: &State) -> Self {
        let pools = state.ipam.pools.iter();
        Self { hosts: pools.map(|(group, pool)| (*group, pool.hosts)).collect() }
    }

    /// Without hosts.
    pub(crate) fn empty() -> Self {
        Self { hosts: BTreeMap::new() }
    }

    /// Counts a host in a group.
    pub(crate) fn add(&mut self, group: IpNet) {
        *self.hosts.entry(group).or_default() += 1;
    }

    /// The group of a network for a host with these labels.
    pub(crate) fn choose(&self, network: &Network, labels: &Labels) -> Option<IpNet> {
        let eligible = network.leaves().filter(|leaf| leaf.takes(labels));
        eligible.map(|leaf| leaf.cidr).min_by_key(|cidr| self.hosts.get(cidr).unwrap_or(&0))
    }

    /// Places in every network that has a group for these labels.
    pub(crate) fn place(&self, topology: &Topology, labels: &Labels) -> Vec<Place> {
        let place = |network: &Network| {
            let group = self.choose(network, labels)?;
            Some(Place { network: network.name.clone(), group })
        };
        topology.networks().iter().filter_map(place).collect()
    }
}

pub(crate) fn evolve_added(state: &mut State, event: &HostAdded) {
    let HostAdded { name, ip, addresses, labels, info, source, places } = event.clone();
    let added = state.revision;
    let host =
        Host { name, ip, addresses, labels, info, source, state: HostState::Up, places, added };
    insert(state, host);
}

pub(crate) fn evolve_updated(state: &mut State, event: &HostUpdated) {
    let Some(old) = take(state, &event.name) else { return };
    let HostUpdated { name, ip, addresses, labels, info, places } = event.clone();
    let Host { source, state: in_state, added, .. } = old;
    insert(
        state,
        Host { name, ip, addresses, labels, info, source, state: in_state, places, added },
    );
}

pub(crate) fn evolve_state(state: &mut State, name: &HostName, new: HostState) {
    if let Some(host) = state.hosts.get(name) {
        state.hosts.insert(Arc::new(Host { state: new, ..Host::clone(host) }));
    }
}

pub(crate) fn evolve_removed(state: &mut State, name: &HostName) {
    hold::evolve_reported(state, name);
    state.conflicts.remove(name);
    state.agents.remove(name);
    take(state, name);
}

/// Inserts a host into all indexes.
pub(crate) fn insert(state: &mut State, host: Host) {
    for ip in host.ips() {
        state.host_addresses.insert(ip, host.name.clone());
        if state.version >= version::ADDRESS_CHECKS {
            state.ipam.hosts.insert(ip);
        }
    }
    for place in &host.places {
        state.ipam.count_host(place.group, true);
    }
    state.hosts.insert(Arc::new(host));
}

/// Removes a host from all indexes.
pub(crate) fn take(state: &mut State, name: &HostName) -> Option<Host> {
    let host = state.hosts.remove(name)?;
    for ip in host.ips() {
        state.host_addresses.remove(&ip);
        state.ipam.hosts.remove(&ip);
    }
    for place in &host.places {
        state.ipam.count_host(place.group, false);
    }
    Some(Arc::unwrap_or_clone(host))
}
