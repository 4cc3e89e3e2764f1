//! The agent's view of the cluster: the part of the state that concerns a host, built from
//! a snapshot and the feed. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use romana_client::follow::Snapshot;
use romana_client::mirror::{
    self, Cursor, SnapshotAddress, SnapshotBlock, SnapshotError, SnapshotHost,
};
use romana_statemachine::command::{Endpoint, HostState};
use romana_statemachine::event::HostUpdated;
use romana_statemachine::name::{AddressName, HostName, NetworkName, SegmentId, TenantId};
use romana_statemachine::routes::Blocks;
use romana_statemachine::topology::TopologySpec;
use romana_statemachine::{Conflict, Event, Millis, Record, Revision, Topic};
use serde::{Deserialize, Serialize};

use crate::policy_view::PolicyView;

/// Topics that an agent follows.
pub const TOPICS: [Topic; 8] = [
    Topic::Topology,
    Topic::Hosts,
    Topic::Blocks,
    Topic::Addresses,
    Topic::Tenants,
    Topic::Policies,
    Topic::Endpoints,
    Topic::Vips,
];

/// A host's view of the cluster at a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub host: HostName,
    #[serde(flatten)]
    pub cursor: Cursor,
    /// The last revision that changed hosts, blocks, networks or conflicts, which routes depend on.
    #[serde(skip)]
    pub routing: Revision,
    /// Log time of that revision.
    #[serde(default)]
    pub at: Millis,
    pub hosts: OrdMap<HostName, Host>,
    pub blocks: OrdMap<IpNet, Block>,
    /// Networks, in the order of allocation.
    pub networks: Vec<Network>,
    /// Addresses of this host, by name.
    pub addresses: OrdMap<AddressName, Address>,
    /// Policies and what they refer to; `None`: saved by a release that did not follow them.
    #[serde(default)]
    pub rules: Option<PolicyView>,
    /// Addresses in use on this host that the log cannot allocate to it, as text.
    #[serde(default)]
    pub conflicts: Vec<String>,
    /// Number of addresses to hold in reserve for each owner on this host.
    pub reserve_per_owner: u32,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Addresses in the physical network, main address first.
    pub ips: Vec<IpAddr>,
    pub state: HostState,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: NetworkName,
    pub cidr: IpNet,
    /// Tenants that may use it; empty: all.
    pub tenants: Vec<TenantId>,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub ip: IpAddr,
    pub tenant: TenantId,
    pub segment: SegmentId,
}

impl View {
    /// The view of an empty cluster.
    #[must_use]
    pub fn new(host: HostName) -> Self {
        Self {
            host,
            cursor: Cursor::default(),
            routing: Revision(0),
            at: Millis(0),
            hosts: OrdMap::new(),
            blocks: OrdMap::new(),
            networks: Vec::new(),
            addresses: OrdMap::new(),
            rules: Some(PolicyView::default()),
            conflicts: Vec::new(),
            reserve_per_owner: 0,
        }
    }

    /// Builds a host's view from a snapshot.
    fn from_snapshot(host: &HostName, snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        let mut view = Self::new(host.clone());
        (view.cursor, view.routing) = (Cursor::at(snapshot.revision), snapshot.revision);
        view.at = snapshot.member("at")?.unwrap_or_default();
        for host in snapshot.list::<SnapshotHost>("hosts")? {
            let (ips, state) = (host.ips(), host.state);
            view.hosts.insert(host.name, Host { ips, state });
        }
        for block in snapshot.list::<SnapshotBlock>("blocks")? {
            let SnapshotBlock { cidr, host, tenant, segment } = block;
            view.blocks.insert(cidr, Block { host, tenant, segment });
        }
        for address in snapshot.list::<SnapshotAddress>("addresses")? {
            if address.host == *host {
                let SnapshotAddress { name, ip, tenant, segment, .. } = address;
                view.addresses.insert(name, Address { ip, tenant, segment });
            }
        }
        if let Some(topology) = snapshot.member::<Option<TopologySpec>>("topology")?.flatten() {
            view.networks = networks(&topology);
        }
        view.rules = Some(PolicyView::new(
            snapshot.list("policies")?,
            snapshot.list("endpoints")?,
            snapshot.list("tenants")?,
            snapshot.list("vips")?,
        ));
        let conflicts = snapshot.member::<BTreeMap<HostName, Vec<Conflict>>>("conflicts")?;
        let conflicts = conflicts.unwrap_or_default().remove(host).unwrap_or_default();
        view.conflicts = conflicts.iter().map(shown).collect();
        if let Some(settings) = snapshot.member::<AgentSettings>("settings")? {
            view.reserve_per_owner = settings.reserve_per_owner;
        }
        Ok(view)
    }

    /// The revision up to which it is complete.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cursor.revision
    }

    /// Applies the next record. Events that are unknown or do not concern this
    /// host only advance the revision.
    pub fn apply(&mut self, record: &Record) {
        self.cursor.advance(record.revision);
        self.at = self.at.max(record.at);
        if concerns_routes(&record.event) {
            self.routing = self.cursor.revision;
        }
        if let Some(rules) = &mut self.rules {
            rules.apply(record);
        }
        match &record.event {
            Event::TopologySet(event) => self.networks = networks(&event.topology),
            Event::HostAdded(event) => {
                let host = Host::up(event.ip, &event.addresses);
                self.hosts.insert(event.name.clone(), host);
            }
            Event::HostUpdated(event) => self.update_host(event),
            Event::HostDown(event) => self.set_state(&event.name, HostState::Down),
            Event::HostUp(event) => self.set_state(&event.name, HostState::Up),
            Event::HostDraining(event) => self.set_state(&event.name, HostState::Draining),
            Event::HostRemoved(event) => _ = self.hosts.remove(&event.name),
            Event::BlockAssigned(event) => {
                let (host, tenant) = (event.host.clone(), event.tenant.clone());
                let block = Block { host, tenant, segment: event.segment.clone() };
                self.blocks.insert(event.cidr, block);
            }
            Event::BlockReleased(event) => _ = self.blocks.remove(&event.cidr),
            Event::AddressAllocated(event) if event.host == self.host => {
                let (ip, tenant) = (event.ip, event.tenant.clone());
                let address = Address { ip, tenant, segment: event.segment.clone() };
                self.addresses.insert(event.name.clone(), address);
            }
            Event::AddressReleased(event) => _ = self.addresses.remove(&event.name),
            Event::AddressAdopted(event) if event.host == self.host => {
                let (ip, tenant) = (event.ip, event.tenant.clone());
                let address = Address { ip, tenant, segment: event.segment.clone() };
                self.addresses.insert(event.name.clone(), address);
            }
            Event::AddressClaimed(event) if event.host == self.host => {
                if let Some(address) = self.addresses.remove(&event.reserve) {
                    self.addresses.insert(event.name.clone(), address);
                }
            }
            Event::ConflictsReported(event) if event.host == self.host => {
                self.conflicts = event.conflicts.iter().map(shown).collect();
            }
            Event::AgentSettingsChanged(event) => self.reserve_per_owner = event.reserve_per_owner,
            _ => {}
        }
    }

    /// Addresses that lost or changed their holder between this view and a later one: of endpoints on any
    /// host, and of this host. Addresses allocated and released in between are missing.
    pub fn gone<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = IpAddr> + 'a {
        let of = |view: &Self| match &view.rules {
            Some(rules) => rules.endpoints.clone(),
            None => OrdMap::new(),
        };
        let (endpoints, now) = (of(self), of(later));
        let moved = endpoints.into_iter().filter(move |(ip, endpoint)| {
            let whose =
                |one: &Endpoint| (one.tenant.clone(), one.segment.clone(), one.host.clone());
            now.get(ip).map(whose) != Some(whose(endpoint))
        });
        let own = self.addresses.iter();
        let own = own.filter(|(name, address)| later.addresses.get(*name) != Some(*address));
        moved.map(|(ip, _)| ip).chain(own.map(|(_, address)| address.ip))
    }

    fn update_host(&mut self, event: &HostUpdated) {
        let state = self.hosts.get(&event.name).map_or(HostState::Up, |host| host.state);
        let host = Host { state, ..Host::up(event.ip, &event.addresses) };
        self.hosts.insert(event.name.clone(), host);
    }

    fn set_state(&mut self, name: &HostName, state: HostState) {
        if let Some(host) = self.hosts.get_mut(name) {
            host.state = state;
        }
    }

    /// Networks in which a tenant may get addresses, in this order: first those
    /// that name it, then the open ones.
    pub fn networks_for(&self, tenant: &TenantId) -> impl Iterator<Item = &Network> {
        let named = self.networks.iter().filter(|network| network.tenants.contains(tenant));
        named.chain(self.networks.iter().filter(|network| network.tenants.is_empty()))
    }
}

impl Blocks for View {
    fn blocks(&self, within: Option<IpNet>) -> impl Iterator<Item = (IpNet, &HostName)> {
        let from = self.blocks.range(within.unwrap_or_default()..);
        let inside = from.take_while(move |(cidr, _)| within.is_none_or(|r| r.contains(*cidr)));
        inside.map(|(cidr, block)| (*cidr, &block.host))
    }

    fn ips(&self, host: &HostName) -> Option<impl Iterator<Item = IpAddr>> {
        self.hosts.get(host).map(|host| host.ips.iter().copied())
    }
}

impl mirror::View for View {
    fn topics(&self) -> Vec<Topic> {
        TOPICS.to_vec()
    }

    fn host(&self) -> Option<HostName> {
        Some(self.host.clone())
    }

    fn restart(&self, snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        let mut view = Self::from_snapshot(&self.host, snapshot)?;
        let revision = view.cursor.revision;
        if let Some(rules) = &mut view.rules {
            rules.date(self.rules.as_ref(), revision);
        }
        Ok(view)
    }

    fn apply(&mut self, record: &Record) {
        Self::apply(self, record);
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn change_cursor(&mut self, change: &mut dyn FnMut(&mut Cursor)) {
        change(&mut self.cursor);
    }

    /// A view without rules was saved by an earlier release: it serves for routes until a snapshot arrives.
    fn is_whole(&self) -> bool {
        self.rules.is_some()
    }
}

impl Host {
    fn up(ip: IpAddr, further: &[IpAddr]) -> Self {
        let ips = std::iter::once(ip).chain(further.iter().copied()).collect();
        Self { ips, state: HostState::Up }
    }
}

#[derive(Deserialize)]
struct AgentSettings {
    #[serde(default)]
    reserve_per_owner: u32,
}

/// Whether an event affects routes, or the reported status of routes.
fn concerns_routes(event: &Event) -> bool {
    matches!(event.topic(), Topic::Topology | Topic::Hosts | Topic::Blocks)
        || matches!(event, Event::ConflictsReported(_))
}

fn shown(conflict: &Conflict) -> String {
    let Conflict { name, ip, why } = conflict;
    format!("{ip} is used for {name}, and the log cannot give it: {why}")
}

/// Networks of a topology; the cluster has already refused CIDRs that do not parse.
fn networks(topology: &TopologySpec) -> Vec<Network> {
    let known = topology.networks.iter().filter_map(|spec| {
        let cidr = spec.cidr.parse().ok()?;
        Some(Network { name: spec.name.clone(), cidr, tenants: spec.tenants.clone() })
    });
    known.collect()
}
