//! Routes derived from hosts, blocks and groups: what a host, a group's router or the upstream routers need,
//! aggregated along the topology, and the reason for each exception. A view, not state.
//!
//! The source is anything that implements [`Blocks`] and [`Groups`]: the state, or a follower's mirror of it.
//!
//! Inside a group there are routes per host: its blocks, adjacent ones merged. Outside there is one route per group,
//! and whole subtrees of groups are one prefix. So the number of a host's routes outside its groups never exceeds the
//! number of groups (P3).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::name::{HostName, NetworkName};
use crate::state::State;
use crate::topology::{Group, Network, Topology};

/// Hosts and the blocks that are assigned to them.
pub trait Blocks {
    /// Blocks in a range (all of them if `None`) and their hosts, in order.
    fn blocks(&self, within: Option<IpNet>) -> impl Iterator<Item = (IpNet, &HostName)>;

    /// Addresses of a host in the physical network, the main one first; `None`: the host does not exist.
    fn ips(&self, host: &HostName) -> Option<impl Iterator<Item = IpAddr>>;
}

/// The prefix groups of all networks, and the places of hosts in them.
pub trait Groups: Blocks {
    /// Networks of the topology; empty before it is set.
    fn networks(&self) -> &[Network];

    /// The leaf group of a network in which a host has its place.
    fn place(&self, host: &HostName, network: &NetworkName) -> Option<IpNet>;

    /// Hosts with their place in a range of a network, by name.
    fn hosts_in(&self, network: &NetworkName, range: IpNet) -> impl Iterator<Item = &HostName>;
}

/// How a block is reached.
pub enum Way<'a> {
    Local,
    /// Through the host that owns it: its addresses of the block's family, the main one first. There may be none.
    Host(&'a mut dyn Iterator<Item = IpAddr>),
    /// The host is not known.
    Unknown,
}

/// Routes to the blocks of a range (all of them if `None`), as seen from `here`. `choose` returns the next hop of a
/// block; without one the block has no route. Blocks with the same next hop are merged if their union is exact: a
/// route never covers unassigned addresses or those of other hosts.
pub fn to_blocks<'a, To: Ord + Clone>(
    source: &'a impl Blocks,
    within: Option<IpNet>,
    here: Option<&HostName>,
    mut choose: impl FnMut(IpNet, &'a HostName, Way<'_>) -> Option<To>,
) -> Vec<(IpNet, To)> {
    let mut by_target: BTreeMap<To, Vec<IpNet>> = BTreeMap::new();
    for (block, host) in source.blocks(within) {
        let is_v4 = block.addr().is_ipv4();
        let to = if here == Some(host) {
            choose(block, host, Way::Local)
        } else if let Some(ips) = source.ips(host) {
            choose(block, host, Way::Host(&mut ips.filter(|ip| ip.is_ipv4() == is_v4)))
        } else {
            choose(block, host, Way::Unknown)
        };
        if let Some(to) = to {
            by_target.entry(to).or_default().push(block);
        }
    }
    let merged = by_target.into_iter().flat_map(|(to, blocks)| {
        IpNet::aggregate(&blocks).into_iter().map(move |prefix| (prefix, to.clone()))
    });
    merged.collect()
}

impl Blocks for State {
    fn blocks(&self, within: Option<IpNet>) -> impl Iterator<Item = (IpNet, &HostName)> {
        let blocks = self.ipam().blocks_from(within.unwrap_or_default());
        let inside = blocks.take_while(move |block| within.is_none_or(|r| r.contains(&block.cidr)));
        inside.map(|block| (block.cidr, &block.owner().host))
    }

    fn ips(&self, host: &HostName) -> Option<impl Iterator<Item = IpAddr>> {
        self.host(host).map(Host::ips)
    }
}

impl Groups for State {
    fn networks(&self) -> &[Network] {
        self.topology().map_or(&[], Topology::networks)
    }

    fn place(&self, host: &HostName, network: &NetworkName) -> Option<IpNet> {
        self.host(host)?.place(network)
    }

    fn hosts_in(&self, network: &NetworkName, range: IpNet) -> impl Iterator<Item = &HostName> {
        let inside =
            move |host: &&Host| host.place(network).is_some_and(|place| range.contains(&place));
        self.hosts().filter(inside).map(|host| &host.name)
    }
}

/// Routes from one point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Routes {
    /// The routes, by prefix.
    pub routes: Vec<Route>,
    /// What could not be routed or aggregated, and why.
    pub exceptions: Vec<Exception>,
    /// Number of prefix groups that take hosts: the upper bound for routes outside a group.
    pub groups: u64,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Route {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    pub network: NetworkName,
    pub via: Via,
}

/// The next hop of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Via {
    Local,
    /// The host that owns the blocks.
    Host {
        name: HostName,
        /// Its address of the prefix's family.
        ip: IpAddr,
    },
    /// The router of the group, which can be any of these hosts.
    Group {
        /// The group's name, if it has one.
        name: Option<String>,
        hosts: Vec<HostName>,
    },
}

/// What could not be routed or aggregated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exception {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    pub reason: String,
}

/// Routes of a host: its own blocks, those of the other hosts in its groups, and the other groups. `None` if the host
/// does not exist.
#[must_use]
pub fn for_host(source: &impl Groups, name: &HostName) -> Option<Routes> {
    _ = source.ips(name)?;
    let mut routes = Routes::new(source);
    for network in source.networks() {
        let place = source.place(name, &network.name);
        if let Some(group) = place {
            routes.blocks_of(source, network, group, Some(name));
        }
        let outside = outside(network, place);
        outside.for_each(|group| routes.group(source, network, group));
    }
    Some(routes.sorted())
}

/// Routes of the upstream routers: one per group that has hosts.
#[must_use]
pub fn for_router(source: &impl Groups) -> Routes {
    let mut routes = Routes::new(source);
    for network in source.networks() {
        network.leaves().for_each(|group| routes.group(source, network, group));
    }
    routes.sorted()
}

/// Routes of a group's own router. For a leaf group: one or more per host in it. For a group of groups or a whole
/// network: one per group inside that has hosts. `None` if the range is neither.
#[must_use]
pub fn for_group(source: &impl Groups, group: IpNet) -> Option<Routes> {
    let network = source.networks().iter().find(|network| network.cidr.contains(&group))?;
    let mut routes = Routes::new(source);
    if network.leaf(group).is_some() {
        routes.blocks_of(source, network, group, None);
    } else {
        // The innermost group with this range: a group that is the only one on its level has its parent's whole
        // range.
        let groups = network.groups.iter().enumerate();
        let of_range = groups.filter(|(_, one)| one.cidr == group && !one.padding);
        let parent = of_range.map(|(at, _)| at).next_back();
        if parent.is_none() && network.cidr != group {
            return None;
        }
        let inside = network.groups.iter().filter(|one| one.parent == parent && !one.padding);
        inside.for_each(|one| routes.group(source, network, one));
    }
    Some(routes.sorted())
}

/// The largest groups of a network that do not contain a leaf: the siblings of the leaf and of all its ancestors.
fn outside(network: &Network, leaf: Option<IpNet>) -> impl Iterator<Item = &Group> {
    let apart = move |group: &Group| leaf.is_none_or(|leaf| !group.cidr.contains(&leaf));
    network.groups.iter().filter(move |group| {
        let parent = group.parent.and_then(|parent| network.groups.get(parent));
        !group.padding && apart(group) && parent.is_none_or(|parent| !apart(parent))
    })
}

impl Routes {
    fn new(source: &impl Groups) -> Self {
        let groups = source.networks().iter().map(|network| network.leaves().count() as u64).sum();
        Self { groups, ..Self::default() }
    }

    fn sorted(mut self) -> Self {
        self.routes.sort();
        self.exceptions.sort();
        self
    }

    /// A route to a whole group, if it has hosts.
    fn group(&mut self, source: &impl Groups, network: &Network, group: &Group) {
        let hosts: Vec<_> = source.hosts_in(&network.name, group.cidr).cloned().collect();
        if !hosts.is_empty() {
            let via = Via::Group { name: group.name.clone(), hosts };
            self.routes.push(Route { prefix: group.cidr, network: network.name.clone(), via });
        }
    }

    /// Routes to the blocks of a group, merged per host.
    fn blocks_of(
        &mut self,
        source: &impl Groups,
        network: &Network,
        group: IpNet,
        here: Option<&HostName>,
    ) {
        let routes = to_blocks(source, Some(group), here, |_, host, way| {
            let ip = match way {
                Way::Local => return Some(Ok(Via::Local)),
                Way::Host(ips) => ips.next(),
                Way::Unknown => None,
            };
            Some(ip.map(|ip| Via::Host { name: host.clone(), ip }).ok_or(host))
        });
        for (prefix, via) in routes {
            match via {
                Ok(via) => {
                    self.routes.push(Route { prefix, network: network.name.clone(), via });
                }
                Err(host) => self.exceptions.push(Exception {
                    prefix,
                    reason: format!("host {host} has no address of this family to route to"),
                }),
            }
        }
    }
}
