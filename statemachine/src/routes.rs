//! Routes that follow from the state: what a host, a group's router or the routers above need to
//! know, aggregated along the topology, and why each exception exists. A view, not state.
//!
//! Inside a group a route is per host: its blocks, adjacent ones merged. Outside it is per group, and
//! whole subtrees of groups are one prefix. So a host's routes outside its groups never exceed the
//! number of groups (law 3).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::host::Host;
use crate::ipam::Block;
use crate::name::{HostName, NetworkName};
use crate::state::State;
use crate::topology::{Group, Network};

/// Routes for one point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Routes {
    /// The routes, by prefix.
    pub routes: Vec<Route>,
    /// What could not be routed or aggregated, and why.
    pub exceptions: Vec<Exception>,
    /// Prefix groups that take hosts: the bound for routes outside a group.
    pub groups: u64,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Route {
    /// Where to.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// Its network.
    pub network: NetworkName,
    /// How.
    pub via: Via,
}

/// How a prefix is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// It is here.
    Local,
    /// Through the host that has the blocks.
    Host {
        /// The host.
        name: HostName,
        /// Its address of the prefix's family.
        ip: IpAddr,
    },
    /// Through the router of the group, which any of these hosts can be.
    Group {
        /// The group's name, if it has one.
        name: Option<String>,
        /// Its hosts.
        hosts: Vec<HostName>,
    },
}

/// What could not be routed or aggregated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exception {
    /// Where to.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub prefix: IpNet,
    /// Why.
    pub reason: String,
}

/// Routes of a host: its own blocks, those of the other hosts of its groups, and the other groups.
/// `None` if there is no such host.
#[must_use]
pub fn for_host(state: &State, name: &HostName) -> Option<Routes> {
    let host = state.host(name)?;
    let mut routes = Routes::new(state);
    for network in state.topology().into_iter().flat_map(|topology| topology.networks()) {
        let place = host.place(&network.name);
        if let Some(group) = place {
            routes.blocks_of(state, network, group, Some(name));
        }
        let outside = outside(network, place);
        outside.for_each(|group| routes.group(state, network, group));
    }
    Some(routes.sorted())
}

/// Routes of the routers above: one per group that has hosts.
#[must_use]
pub fn for_router(state: &State) -> Routes {
    let mut routes = Routes::new(state);
    for network in state.topology().into_iter().flat_map(|topology| topology.networks()) {
        network.leaves().for_each(|group| routes.group(state, network, group));
    }
    routes.sorted()
}

/// Routes of a group's own router. Of a leaf group: one or more per host of it. Of a group of groups, or of a whole
/// network: one per group inside that has hosts. `None` if it is neither.
#[must_use]
pub fn for_group(state: &State, group: IpNet) -> Option<Routes> {
    let network = state.topology()?.network_around(group)?;
    let mut routes = Routes::new(state);
    if network.leaf(group).is_some() {
        routes.blocks_of(state, network, group, None);
    } else {
        // The innermost of this range: a group that is alone on its level has all of the range above.
        let groups = network.groups.iter().enumerate();
        let of_range = groups.filter(|(_, one)| one.cidr == group && !one.padding);
        let parent = of_range.map(|(at, _)| at).next_back();
        if parent.is_none() && network.cidr != group {
            return None;
        }
        let inside = network.groups.iter().filter(|one| one.parent == parent && !one.padding);
        inside.for_each(|one| routes.group(state, network, one));
    }
    Some(routes.sorted())
}

/// The largest groups of a network that do not hold a leaf: siblings of it and of all groups above.
fn outside(network: &Network, leaf: Option<IpNet>) -> impl Iterator<Item = &Group> {
    let apart = move |group: &Group| leaf.is_none_or(|leaf| !group.cidr.contains(&leaf));
    network.groups.iter().filter(move |group| {
        let parent = group.parent.and_then(|parent| network.groups.get(parent));
        !group.padding && apart(group) && parent.is_none_or(|parent| !apart(parent))
    })
}

impl Routes {
    fn new(state: &State) -> Self {
        let networks = state.topology().into_iter().flat_map(|topology| topology.networks());
        let groups = networks.map(|network| network.leaves().count() as u64).sum();
        Self { groups, ..Self::default() }
    }

    fn sorted(mut self) -> Self {
        self.routes.sort();
        self.exceptions.sort();
        self
    }

    /// A route to a whole group, if it has hosts.
    fn group(&mut self, state: &State, network: &Network, group: &Group) {
        let inside = |host: &&Host| {
            host.place(&network.name).is_some_and(|place| group.cidr.contains(&place))
        };
        let hosts: Vec<_> = state.hosts().filter(inside).map(|host| host.name.clone()).collect();
        if !hosts.is_empty() {
            let via = Via::Group { name: group.name.clone(), hosts };
            self.routes.push(Route { prefix: group.cidr, network: network.name.clone(), via });
        }
    }

    /// Routes to the blocks of a group, merged per host.
    fn blocks_of(
        &mut self,
        state: &State,
        network: &Network,
        group: IpNet,
        here: Option<&HostName>,
    ) {
        let mut by_host: BTreeMap<&HostName, Vec<IpNet>> = BTreeMap::new();
        let inside = |block: &&Block| group.contains(&block.cidr);
        for block in state.ipam().blocks_from(group).take_while(inside) {
            by_host.entry(&block.owner().host).or_default().push(block.cidr);
        }
        for (name, blocks) in by_host {
            for prefix in IpNet::aggregate(&blocks) {
                let via = if here == Some(name) {
                    Some(Via::Local)
                } else {
                    next_hop(state, name, prefix).map(|ip| Via::Host { name: name.clone(), ip })
                };
                let network = network.name.clone();
                match via {
                    Some(via) => self.routes.push(Route { prefix, network, via }),
                    None => self.exceptions.push(Exception {
                        prefix,
                        reason: format!("host {name} has no address of this family to route to"),
                    }),
                }
            }
        }
    }
}

/// The address of a host that has the family of a prefix.
fn next_hop(state: &State, host: &HostName, prefix: IpNet) -> Option<IpAddr> {
    state.host(host)?.ips().find(|ip| ip.is_ipv4() == prefix.addr().is_ipv4())
}
