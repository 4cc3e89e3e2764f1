//! What policies would change before they are set: which endpoints could reach which others that cannot now, and
//! the other way round.
//!
//! Exact, not sampled: the numbers that policies name cut each protocol into classes of traffic within which
//! every packet has the same verdict, and one of each class is judged.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::evaluate::{Subject, judge};
use super::party::Transport;
use super::{Peer, Policy, Port, Protocol, Rule};
use crate::command::NamedPort;
use crate::state::State;

/// Pairs that are looked at; more are not.
pub const PAIRS_MAX: usize = 20_000;
/// Changes that are listed; more are counted.
pub const CHANGES_MAX: usize = 1_000;
/// Addresses outside, from ranges that the policies name.
const STRANGERS_MAX: usize = 16;

/// What would change between two addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who opens the connection.
    pub source: IpAddr,
    /// Who accepts it.
    pub destination: IpAddr,
    /// Traffic that would be allowed, and is not now.
    pub opens: Vec<String>,
    /// Traffic that is allowed now, and would not be.
    pub closes: Vec<String>,
}

/// What would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pairs that change, by address.
    pub changes: Vec<Change>,
    /// How many pairs change: more than are listed, perhaps.
    pub changed: usize,
    /// How many pairs were looked at.
    pub pairs: usize,
    /// There are more pairs than that.
    pub truncated: bool,
}

/// Compares the state with itself after policies are set.
#[must_use]
pub fn compare(state: &State, proposed: &[Policy]) -> Comparison {
    let names: BTreeSet<_> = proposed.iter().map(|policy| &policy.name).collect();
    let kept = || state.policies().filter(|policy| !names.contains(&policy.name));
    let before: Vec<&Policy> = state.policies().collect();
    let after: Vec<&Policy> = kept().chain(proposed).collect();
    let replaced = state.policies().filter(|policy| names.contains(&policy.name));
    let changing: Vec<&Policy> = replaced.chain(proposed).collect();
    let everybody: Vec<Both<'_>> = addresses(state, &changing)
        .into_iter()
        .map(|ip| Both {
            before: Subject::new(state, ip, before.iter().copied()),
            after: Subject::new(state, ip, after.iter().copied()),
            concerned: Subject::new(state, ip, changing.iter().copied()).is_selected(),
        })
        .collect();
    let mut comparison = Comparison::default();
    for source in &everybody {
        for destination in &everybody {
            let (from, to) = (source.before.ip, destination.before.ip);
            let apart = from == to || from.is_ipv4() != to.is_ipv4();
            if apart || !source.concerned && !destination.concerned {
                continue;
            }
            if comparison.pairs == PAIRS_MAX {
                comparison.truncated = true;
                return comparison;
            }
            comparison.pairs += 1;
            let Some(change) = pair(source, destination) else { continue };
            comparison.changed += 1;
            if comparison.changes.len() < CHANGES_MAX {
                comparison.changes.push(change);
            }
        }
    }
    comparison
}

/// An address before and after.
struct Both<'a> {
    before: Subject<'a>,
    after: Subject<'a>,
    /// Whether a policy that changes selects it.
    concerned: bool,
}

fn pair(source: &Both<'_>, destination: &Both<'_>) -> Option<Change> {
    let sides = [&source.before, &source.after, &destination.before, &destination.after];
    let named = destination.before.party.ports();
    let classes = classes(sides.into_iter().flat_map(Subject::selecting), named);
    let (mut opens, mut closes) = (Vec::new(), Vec::new());
    let total = classes.len();
    for Class { packet, text } in classes {
        let before = judge(&source.before, &destination.before, packet).is_allowed();
        let after = judge(&source.after, &destination.after, packet).is_allowed();
        match (before, after) {
            (false, true) => opens.push(text),
            (true, false) => closes.push(text),
            _ => {}
        }
    }
    for list in [&mut opens, &mut closes] {
        if list.len() == total {
            *list = alloc::vec!["everything".into()];
        }
    }
    let change = !opens.is_empty() || !closes.is_empty();
    let (source, destination) = (source.before.ip, destination.before.ip);
    change.then_some(Change { source, destination, opens, closes })
}

/// Packets with the same verdict, one of them, and what to call them.
struct Class {
    packet: Transport,
    text: String,
}

fn classes<'a>(policies: impl Iterator<Item = &'a Policy>, named: &[NamedPort]) -> Vec<Class> {
    let mut kinds: BTreeSet<(u8, u8)> = BTreeSet::new();
    let ported = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let mut cuts: BTreeMap<Protocol, BTreeSet<u32>> =
        ported.iter().map(|protocol| (*protocol, BTreeSet::from([1]))).collect();
    for traffic in policies.flat_map(rules).flat_map(|rule| &rule.traffic) {
        for port in &traffic.ports {
            let ranges: Vec<(u16, u16)> = match port {
                Port::Number(number) => alloc::vec![(*number, *number)],
                Port::Range(low, high) => alloc::vec![(*low, *high)],
                // What the destination means by it.
                Port::Named(name) => {
                    let meant = named.iter().filter(|port| port.name == *name);
                    meant.map(|port| (port.port, port.port)).collect()
                }
            };
            let cuts = cuts.entry(traffic.protocol).or_default();
            for (low, high) in ranges {
                cuts.extend([u32::from(low), u32::from(high) + 1]);
            }
        }
        if let Some(icmp) = traffic.icmp {
            let code = icmp.code.unwrap_or(0);
            // The code after it is not meant, if it is the only one.
            kinds.extend([(icmp.kind, code), (icmp.kind, code.wrapping_add(1))]);
        }
    }
    let mut classes = Vec::new();
    for (protocol, cuts) in
        ported.iter().filter_map(|protocol| Some((protocol, cuts.get(protocol)?)))
    {
        let ends = cuts.iter().skip(1).copied().chain([65_536]);
        for (first, next) in cuts.iter().copied().zip(ends).filter(|(first, _)| *first < 65_536) {
            let (Ok(low), Ok(high)) = (u16::try_from(first), u16::try_from(next - 1)) else {
                continue;
            };
            let packet = match protocol {
                Protocol::Tcp => Transport::Tcp(low),
                Protocol::Udp => Transport::Udp(low),
                _ => Transport::Sctp(low),
            };
            let word = protocol.as_str();
            let text = match (low, high) {
                (1, u16::MAX) => word.into(),
                (low, high) if low == high => format!("{word}/{low}"),
                (low, high) => format!("{word}/{low}-{high}"),
            };
            classes.push(Class { packet, text });
        }
    }
    let other = (0..=254_u8).find(|kind| !kinds.iter().any(|(is, _)| is == kind)).unwrap_or(255);
    classes.extend(kinds.iter().map(|(kind, code)| Class {
        packet: Transport::Icmp(*kind, *code),
        text: format!("icmp/{kind}/{code}"),
    }));
    let text = if kinds.is_empty() { "icmp" } else { "other icmp" }.into();
    classes.push(Class { packet: Transport::Icmp(other, 0), text });
    classes.push(Class { packet: Transport::Other, text: "other protocols".into() });
    classes
}

fn rules(policy: &Policy) -> impl Iterator<Item = &Rule> {
    policy.ingress.iter().chain(&policy.egress)
}

/// Everybody with an address, and somebody of each range that the policies name.
fn addresses(state: &State, policies: &[&Policy]) -> BTreeSet<IpAddr> {
    let mut found: BTreeSet<IpAddr> = state.endpoints().map(|endpoint| endpoint.ip).collect();
    found.extend(state.ipam().addresses_after(None).map(|allocation| allocation.ip));
    let peers = policies.iter().flat_map(|policy| rules(policy)).flat_map(|rule| &rule.peers);
    let ranges = peers.filter_map(|peer| match peer {
        Peer::Cidr { cidr, except } => Some(core::iter::once(cidr).chain(except)),
        _ => None,
    });
    let strangers: BTreeSet<IpAddr> = ranges.flatten().map(|cidr| cidr.network()).collect();
    found.extend(strangers.into_iter().take(STRANGERS_MAX));
    found
}
