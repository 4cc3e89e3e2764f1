//! What policies would change before they are set: between whom what traffic would be allowed that is not now, and
//! the other way round.
//!
//! It sees what [`verdict`](super::evaluate::verdict) sees: endpoints, addresses that are allocated, hosts, VIPs, and
//! everybody else, in ranges within which policies cannot tell addresses apart. What is not looked at is said.
//! It is exact, not sampled: one address of each range and one packet of each class stand for all.

mod classes;
mod parties;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use self::classes::{Class, Classes};
use self::parties::{Both, Parties, Policies};
use super::evaluate::{Subject, judge};
use super::party::Party;
use super::{Policy, Target};
use crate::state::State;

/// Pairs that are looked at; more are not.
pub const PAIRS_MAX: usize = 20_000;
/// Changes that are listed; more are counted.
pub const CHANGES_MAX: usize = 1_000;
/// Ranges of unknown addresses that are looked at; more are not.
pub const RANGES_MAX: usize = 256;

/// Who is at an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The address that was looked at.
    pub ip: IpAddr,
    /// The range that it stands for: the addresses of it that no endpoint, host, VIP or block has, and that lie in
    /// none of the narrower [`Comparison::ranges`]. `None`: the address is known, and stands for itself.
    pub range: Option<IpNet>,
}

/// What would change between two parties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who opens the connection.
    pub source: End,
    /// Who accepts it.
    pub destination: End,
    /// Traffic that would be allowed, and is not now.
    pub opens: Vec<String>,
    /// Traffic that is allowed now, and would not be.
    pub closes: Vec<String>,
}

/// What would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pairs that change, by address; those with unknown addresses last.
    pub changes: Vec<Change>,
    /// How many pairs change: more than are listed, perhaps.
    pub changed: usize,
    /// How many pairs were looked at.
    pub pairs: usize,
    /// How many more pairs there are, which were not looked at.
    pub pairs_left: u64,
    /// Ranges whose unknown addresses were looked at: both families, and what policies name and matters here.
    pub ranges: Vec<IpNet>,
    /// Further ranges, whose unknown addresses were not.
    pub ranges_left: Vec<IpNet>,
    /// Whether blocks have addresses that are not allocated. Those are never looked at.
    pub unallocated: bool,
}

/// Whom a policy applies to now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Endpoints, and addresses that are allocated.
    pub endpoints: usize,
    pub hosts: usize,
    /// Ranges in which it applies to every other address as well.
    pub ranges: Vec<IpNet>,
}

/// Whom a policy applies to now.
#[must_use]
pub fn reach(state: &State, policy: &Policy) -> Reach {
    let mut reach = Reach::default();
    let mut hosts = alloc::collections::BTreeSet::new();
    for ip in parties::known(state) {
        let subject = Subject::new(state, ip, [policy]);
        match subject.party {
            _ if !subject.is_selected() => {}
            Party::Endpoint { .. } => reach.endpoints += 1,
            Party::Host(host) => drop(hosts.insert(host)),
            Party::Other => {}
        }
    }
    reach.hosts = hosts.len();
    reach.ranges.extend(policy.applied_to.iter().filter_map(|target| match target {
        Target::Cidr(cidr) => Some(*cidr),
        _ => None,
    }));
    reach
}

/// Compares the state with itself after policies are set.
#[must_use]
pub fn compare(state: &State, proposed: &[Policy]) -> Comparison {
    let policies = Policies::new(state, proposed);
    let parties = Parties::new(state, &policies);
    let mut comparison = Comparison {
        pairs_left: parties.pair_count().saturating_sub(PAIRS_MAX as u64),
        unallocated: parties.unallocated,
        ..Comparison::default()
    };
    for (source, destination) in parties.pairs().take(PAIRS_MAX) {
        comparison.pairs += 1;
        let Some(change) = pair(source, destination) else { continue };
        comparison.changed += 1;
        if comparison.changes.len() < CHANGES_MAX {
            comparison.changes.push(change);
        }
    }
    (comparison.ranges, comparison.ranges_left) = (parties.ranges, parties.ranges_left);
    comparison
}

fn pair(source: &Both<'_>, destination: &Both<'_>) -> Option<Change> {
    let sides = [&source.before, &source.after, &destination.before, &destination.after];
    let classes = Classes::between(sides, &source.before.party, &destination.before.party);
    let (mut opens, mut closes): (Vec<Class>, Vec<Class>) = (Vec::new(), Vec::new());
    for class in classes.iter() {
        let before = judge(&source.before, &destination.before, class.packet).is_allowed();
        let after = judge(&source.after, &destination.after, class.packet).is_allowed();
        match (before, after) {
            (false, true) => opens.push(*class),
            (true, false) => closes.push(*class),
            _ => {}
        }
    }
    if opens.is_empty() && closes.is_empty() {
        return None;
    }
    let (opens, closes) = (classes.names(&opens), classes.names(&closes));
    Some(Change { source: source.end, destination: destination.end, opens, closes })
}
