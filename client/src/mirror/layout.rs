//! A view of hosts, blocks and prefix groups, from which all routes are derived.

use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use romana_statemachine::event::Place;
use romana_statemachine::name::{HostName, NetworkName};
use romana_statemachine::routes::{Blocks, Groups};
use romana_statemachine::topology::{Network, Topology, TopologySpec};
use romana_statemachine::{Event, Record, Topic};
use serde::{Deserialize, Serialize};

use super::{Cursor, SnapshotBlock, SnapshotError, SnapshotHost, View};
use crate::follow::Snapshot;

/// The location of blocks at a revision. `romana_statemachine::routes` derives the same
/// routes from it as from the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    #[serde(flatten)]
    cursor: Cursor,
    hosts: OrdMap<HostName, Host>,
    blocks: OrdMap<IpNet, HostName>,
    topology: Carved,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Host {
    /// Main address first.
    ips: Vec<IpAddr>,
    places: Vec<Place>,
}

/// A topology, stored as its document. Without one, or with one that only a newer program
/// understands, there are no groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<TopologySpec>", into = "Option<TopologySpec>")]
struct Carved(Option<Topology>);

impl From<Option<TopologySpec>> for Carved {
    fn from(spec: Option<TopologySpec>) -> Self {
        Self(spec.and_then(|spec| Topology::new(&spec).ok()))
    }
}

impl From<Carved> for Option<TopologySpec> {
    fn from(Carved(topology): Carved) -> Self {
        topology.map(|topology| topology.spec().clone())
    }
}

impl Layout {
    fn set_host(&mut self, name: &HostName, ip: IpAddr, further: &[IpAddr], places: &[Place]) {
        let ips = std::iter::once(ip).chain(further.iter().copied()).collect();
        self.hosts.insert(name.clone(), Host { ips, places: places.to_vec() });
    }
}

impl View for Layout {
    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Topology, Topic::Hosts, Topic::Blocks]
    }

    fn restart(&self, snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        let mut view = Self { cursor: Cursor::at(snapshot.revision), ..Self::default() };
        view.topology = snapshot.member::<Option<TopologySpec>>("topology")?.flatten().into();
        for host in snapshot.list::<SnapshotHost>("hosts")? {
            let ips = host.ips();
            view.hosts.insert(host.name, Host { ips, places: host.places });
        }
        let blocks = snapshot.list::<SnapshotBlock>("blocks")?.into_iter();
        view.blocks = blocks.map(|block| (block.cidr, block.host)).collect();
        Ok(view)
    }

    fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::TopologySet(event) => {
                self.topology = Some(event.topology.clone()).into();
                for moved in &event.hosts {
                    if let Some(host) = self.hosts.get_mut(&moved.host) {
                        host.places.clone_from(&moved.places);
                    }
                }
            }
            Event::HostAdded(event) => {
                self.set_host(&event.name, event.ip, &event.addresses, &event.places);
            }
            Event::HostUpdated(event) => {
                self.set_host(&event.name, event.ip, &event.addresses, &event.places);
            }
            Event::HostRemoved(event) => _ = self.hosts.remove(&event.name),
            Event::BlockAssigned(event) => {
                _ = self.blocks.insert(event.cidr, event.host.clone());
            }
            Event::BlockReleased(event) => _ = self.blocks.remove(&event.cidr),
            _ => {}
        }
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn change_cursor(&mut self, change: &mut dyn FnMut(&mut Cursor)) {
        change(&mut self.cursor);
    }
}

impl Blocks for Layout {
    fn blocks(&self, within: Option<IpNet>) -> impl Iterator<Item = (IpNet, &HostName)> {
        let blocks = self.blocks.range(within.unwrap_or_default()..);
        let inside = blocks.take_while(move |(cidr, _)| within.is_none_or(|r| r.contains(*cidr)));
        inside.map(|(cidr, host)| (*cidr, host))
    }

    fn ips(&self, host: &HostName) -> Option<impl Iterator<Item = IpAddr>> {
        self.hosts.get(host).map(|host| host.ips.iter().copied())
    }
}

impl Groups for Layout {
    fn networks(&self) -> &[Network] {
        self.topology.0.as_ref().map_or(&[], Topology::networks)
    }

    fn place(&self, host: &HostName, network: &NetworkName) -> Option<IpNet> {
        let mut places = self.hosts.get(host)?.places.iter();
        places.find(|place| place.network == *network).map(|place| place.group)
    }

    fn hosts_in(&self, network: &NetworkName, range: IpNet) -> impl Iterator<Item = &HostName> {
        self.hosts.iter().filter_map(move |(name, host)| {
            let mut places = host.places.iter().filter(|place| place.network == *network);
            places.any(|place| range.contains(&place.group)).then_some(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::routes::{for_group, for_host, for_router};
    use romana_statemachine::{
        Command, Entry, Index, Millis, Position, Proposal, Revision, State, Term,
    };
    use serde_json::json;

    use super::*;

    /// Two networks, one with nested groups, and the larger one with other groups later; hosts with one and
    /// with two families, one that changes and one that is removed.
    const LINES: [&str; 14] = [
        r#"{"SetTopology": {"networks": [{"name": "a", "cidr": "10.0.0.0/16", "block_mask": 29}, {"name": "b", "cidr": "fd00::/64", "block_mask": 126}],
            "topologies": [{"networks": ["a"], "map": [{"name": "z1", "assignment": {"zone": "1"}, "groups": [{"groups": []}, {"groups": []}]}, {"name": "z2", "assignment": {"zone": "2"}}]},
            {"networks": ["b"], "map": [{}]}]}}"#,
        r#"{"AddHost": {"name": "h1", "ip": "192.168.0.1", "addresses": ["2001:db8::1"], "labels": {"zone": "1"}}}"#,
        r#"{"AddHost": {"name": "h2", "ip": "192.168.0.2", "labels": {"zone": "1"}}}"#,
        r#"{"AddHost": {"name": "h3", "ip": "192.168.0.3", "labels": {"zone": "2"}}}"#,
        r#"{"AddHost": {"name": "h4", "ip": "192.168.0.4", "addresses": ["2001:db8::4"], "labels": {"zone": "1"}}}"#,
        r#"{"AllocateAddress": {"name": "1", "host": "h1", "tenant": "t", "segment": "s", "network": "a"}}"#,
        r#"{"AllocateAddress": {"name": "2", "host": "h1", "tenant": "u", "segment": "s", "network": "a"}}"#,
        r#"{"AllocateAddress": {"name": "3", "host": "h2", "tenant": "t", "segment": "s", "network": "b"}}"#,
        r#"{"AllocateAddress": {"name": "4", "host": "h4", "tenant": "t", "segment": "s", "network": "b"}}"#,
        r#"{"AllocateAddress": {"name": "5", "host": "h4", "tenant": "t", "segment": "s", "network": "a"}}"#,
        r#"{"AllocateAddress": {"name": "6", "host": "h3", "tenant": "t", "segment": "s", "network": "a"}}"#,
        r#"{"UpdateHost": {"name": "h2", "addresses": ["2001:db8::2"]}}"#,
        r#"{"SetTopology": {"networks": [{"name": "a", "cidr": "10.0.0.0/16", "block_mask": 29}, {"name": "b", "cidr": "fd00::/64", "block_mask": 126}],
            "topologies": [{"networks": ["a"], "map": [{"name": "all"}]}, {"networks": ["b"], "map": [{}]}]}}"#,
        r#"{"RemoveHost": {"name": "h4", "force": true}}"#,
    ];

    /// All routes, as seen from every host.
    fn all(source: &impl Groups, hosts: &[HostName]) -> Vec<String> {
        let groups = source.networks().iter().flat_map(|network| {
            network.groups.iter().map(|group| group.cidr).chain([network.cidr])
        });
        let groups = groups.map(|group| format!("{group} {:?}", for_group(source, group)));
        let hosts = hosts.iter().map(|host| format!("{host} {:?}", for_host(source, host)));
        hosts.chain(groups).chain([format!("{:?}", for_router(source))]).collect()
    }

    #[test]
    fn routes_are_those_of_the_state() {
        let hosts: Vec<HostName> = ["h1", "h2", "h3", "h4", "h5"].map(HostName::from).into();
        let (mut state, mut view) = (State::new(), Layout::default());
        for (index, line) in (1..).zip(LINES) {
            let command: Command = serde_json::from_str(line).unwrap();
            let proposals = vec![Proposal { actor: "t".into(), command }];
            let entry = Entry { at: Millis(index), proposals };
            let (outcomes, records) =
                state.apply(Position { index: Index(index), term: Term(1) }, &entry);
            assert!(outcomes[0].result.is_ok(), "{line}: {outcomes:?}");
            for record in &records {
                view.apply(record);
                view.advance(record.revision);
            }
            assert_eq!(view.revision(), state.revision());
            assert_eq!(all(&view, &hosts), all(&state, &hosts), "{line}");
            // The same from a saved view, and from a snapshot.
            let copy: Layout = serde_json::from_value(json!(view)).unwrap();
            assert_eq!(copy, view);
            let blocks = state.ipam().blocks();
            let blocks = blocks.map(|b| {
                let owner = b.owner();
                json!({"cidr": b.cidr, "host": owner.host, "tenant": owner.tenant, "segment": owner.segment})
            });
            let snapshot = json!({"revision": state.revision(), "topology": state.topology_document(),
                "hosts": state.hosts().collect::<Vec<_>>(), "blocks": blocks.collect::<Vec<_>>()});
            let snapshot = serde_json::from_value(snapshot).unwrap();
            let restarted = Layout::default().restart(&snapshot).unwrap();
            assert_eq!(all(&restarted, &hosts), all(&state, &hosts), "{line}");
        }
    }

    /// Views of earlier releases are read: revision and cluster are beside the content.
    #[test]
    fn the_saved_form_is_that_of_earlier_releases() {
        let saved = json!({"revision": 7, "cluster": "c1", "hosts": {}, "blocks": {"10.0.0.0/29": "h1"}, "topology": null});
        let view: Layout = serde_json::from_value(saved.clone()).unwrap();
        assert_eq!((view.revision(), view.cluster()), (Revision(7), Some("c1")));
        assert_eq!(json!(view), saved);
    }
}
