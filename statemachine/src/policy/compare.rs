//! What policies would change before they are set: which traffic between which parties would be newly allowed, and
//! which no longer.
//!
//! Covers what [`verdict`](super::evaluate::verdict) covers: endpoints, allocated addresses, hosts, VIPs, and all
//! other addresses, in ranges within which policies do not distinguish addresses. The result states what was not
//! compared. It is exact, not sampled: one address represents each range, and one packet each class.

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

/// Pairs that are compared; further ones are not.
pub const PAIRS_MAX: usize = 20_000;
/// Changes that are listed; further ones are only counted.
pub const CHANGES_MAX: usize = 1_000;
/// Ranges of unknown addresses that are compared; further ones are not.
pub const RANGES_MAX: usize = 256;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The address that was compared.
    pub ip: IpAddr,
    /// The range that the address represents: its addresses outside every endpoint, host, VIP, block and narrower
    /// range in [`Comparison::ranges`]. `None`: the address is known, and represents itself.
    pub range: Option<IpNet>,
}

/// What would change between two parties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The side that opens the connection.
    pub source: End,
    /// The side that accepts the connection.
    pub destination: End,
    /// Traffic that is not allowed now, and would be.
    pub opens: Vec<String>,
    /// Traffic that is allowed now, and would not be.
    pub closes: Vec<String>,
}

/// The changes that policies would make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pairs that change, by address; pairs with unknown addresses last.
    pub changes: Vec<Change>,
    /// Number of pairs that change; may exceed the number listed.
    pub changed: usize,
    /// Number of pairs that were compared.
    pub pairs: usize,
    /// Number of further pairs, which were not compared.
    pub pairs_left: u64,
    /// Ranges whose unknown addresses were compared: both families, and the relevant ranges in policies.
    pub ranges: Vec<IpNet>,
    /// Further ranges, whose unknown addresses were not compared.
    pub ranges_left: Vec<IpNet>,
    /// Whether blocks have unallocated addresses. Those are never compared.
    pub unallocated: bool,
}

/// What a policy applies to now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Endpoints and allocated addresses.
    pub endpoints: usize,
    pub hosts: usize,
    /// Ranges in which it also applies to all other addresses.
    pub ranges: Vec<IpNet>,
}

/// What a policy applies to now.
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

/// Compares the state before and after policies are set.
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
