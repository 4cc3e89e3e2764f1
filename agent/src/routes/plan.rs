//! Computes the desired routes from the view of the cluster and the host's links.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::command::HostState;
use romana_statemachine::name::HostName;
use romana_statemachine::routes::{Way, to_blocks};
use serde::Serialize;

use crate::view::View;

/// Facts about the host's links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Links that are up, except our own.
    pub links: Vec<Link>,
    /// Gateways towards hosts that are not on a link. Looked up for [`Options::multihop`] only.
    pub gateways: BTreeMap<IpAddr, Gateway>,
    /// Addresses that do not answer on their link (the neighbour entry failed).
    pub silent: BTreeSet<IpAddr>,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Networks on the link, without host bits.
    pub prefixes: Vec<IpNet>,
}

/// The gateway towards a host that is not on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub via: IpAddr,
    /// Index of its link.
    pub link: u32,
}

/// Options of the plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Route to hosts behind a gateway, too.
    pub multihop: bool,
    /// Use all addresses of a host that are on a link, not only the first.
    pub ecmp: bool,
}

/// The target of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Packets to unallocated addresses are answered with an error instead of looping.
    Unreachable,
    /// Through one of these.
    Via(Vec<Hop>),
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Hop {
    pub via: IpAddr,
    /// Index of its link.
    pub link: u32,
}

/// The plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub routes: BTreeMap<IpNet, Target>,
    /// Blocks without a route.
    pub skipped: Vec<Skipped>,
}

/// A block without a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Skipped {
    pub block: IpNet,
    pub host: HostName,
    pub why: String,
    /// Whether an operator has to act.
    pub problem: bool,
}

/// Plans the routes of the view's host. Its own blocks of a single address have no route.
#[must_use]
pub fn plan(view: &View, facts: &Facts, options: Options) -> Plan {
    let mut skipped = Vec::new();
    let routes = to_blocks(view, None, Some(&view.host), |block, host, way| {
        match target(block, host, way, view, facts, options) {
            Ok(target) => Some(target),
            Err(Reason { why, problem }) => {
                skipped.push(Skipped { block, host: host.clone(), why, problem });
                None
            }
        }
    });
    // It would take the place of the route to the container.
    let single = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    let routes = routes.into_iter();
    let routes = routes.filter(|(prefix, to)| *to != Target::Unreachable || !single(prefix));
    Plan { routes: routes.collect(), skipped }
}

/// Why a block has no route.
struct Reason {
    why: String,
    problem: bool,
}

impl Reason {
    fn problem(why: String) -> Self {
        Self { why, problem: true }
    }
}

fn target(
    block: IpNet,
    name: &HostName,
    way: Way<'_>,
    view: &View,
    facts: &Facts,
    options: Options,
) -> Result<Target, Reason> {
    if matches!(way, Way::Local) {
        return Ok(Target::Unreachable);
    }
    let overlap = facts.links.iter().find_map(|link| {
        let prefix = link.prefixes.iter().find(|prefix| overlap(**prefix, block))?;
        Some((prefix, &link.name))
    });
    if let Some((prefix, link)) = overlap {
        let why =
            format!("it overlaps {prefix} on link {link}: choose another CIDR for the network");
        return Err(Reason::problem(why));
    }
    let Way::Host(ips) = way else {
        return Err(Reason::problem(format!("host {name} is not known")));
    };
    let hops = hops(block, name, ips.collect(), facts, options)?;
    let silent = |hop: &Hop| facts.silent.contains(&hop.via);
    let is_down = view.hosts.get(name).is_some_and(|host| host.state == HostState::Down);
    if is_down && hops.iter().all(silent) {
        return Err(Reason {
            why: format!("host {name} is down and does not answer"),
            problem: false,
        });
    }
    Ok(Target::Via(hops))
}

fn hops(
    block: IpNet,
    name: &HostName,
    family: Vec<IpAddr>,
    facts: &Facts,
    options: Options,
) -> Result<Vec<Hop>, Reason> {
    if family.is_empty() {
        let version = if block.addr().is_ipv4() { 4 } else { 6 };
        let why = format!(
            "host {name} has no IPv{version} address: add one with `romana host add` or the agent's \
             --host-ip"
        );
        return Err(Reason::problem(why));
    }
    let mut hops: Vec<Hop> = family.iter().filter_map(|ip| on_link(*ip, facts)).collect();
    if hops.is_empty() && options.multihop {
        let gateway = |ip: &IpAddr| facts.gateways.get(ip);
        hops.extend(family.iter().filter_map(gateway).map(|gateway| Hop::from(*gateway)));
    }
    if hops.is_empty() {
        return Err(Reason {
            why: format!("host {name} is behind a gateway: the default route carries it"),
            problem: false,
        });
    }
    if !options.ecmp {
        hops.truncate(1);
    }
    hops.sort_unstable();
    hops.dedup();
    Ok(hops)
}

fn on_link(ip: IpAddr, facts: &Facts) -> Option<Hop> {
    let link = facts.links.iter().find(|link| {
        link.prefixes.iter().any(|prefix| prefix.prefix_len() > 0 && prefix.contains(&ip))
    })?;
    Some(Hop { via: ip, link: link.index })
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

impl From<Gateway> for Hop {
    fn from(Gateway { via, link }: Gateway) -> Self {
        Self { via, link }
    }
}
