//! The addresses to compare: every known address, and one (and a twin) for each range within which policies do not
//! distinguish addresses.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::evaluate::Subject;
use super::super::{Peer, Policy, Target};
use super::{End, RANGES_MAX};
use crate::name::PolicyName;
use crate::prefix;
use crate::state::State;

/// The policies, before and after.
pub(super) struct Policies<'a> {
    pub(super) before: Vec<&'a Policy>,
    pub(super) after: Vec<&'a Policy>,
    /// The policies that are replaced, and those that are set.
    pub(super) changing: Vec<&'a Policy>,
}

impl<'a> Policies<'a> {
    /// If two have the same name, the last one is set.
    pub(super) fn new(state: &'a State, proposed: &'a [Policy]) -> Self {
        let mut names = BTreeSet::new();
        let last = proposed.iter().rev().filter(|policy| names.insert(&policy.name));
        let mut set: Vec<&Policy> = last.collect();
        set.reverse();
        let replaced = |policy: &&Policy| names.contains(&policy.name);
        Self {
            before: state.policies().collect(),
            after: state.policies().filter(|p| !replaced(p)).chain(set.iter().copied()).collect(),
            changing: state.policies().filter(replaced).chain(set.iter().copied()).collect(),
        }
    }
}

/// An address before and after the change.
pub(super) struct Both<'a> {
    pub(super) end: End,
    pub(super) before: Subject<'a>,
    pub(super) after: Subject<'a>,
    /// Whether a changing policy selects it, or makes it wait for its namespace.
    pub(super) concerned: bool,
}

impl<'a> Both<'a> {
    fn new(state: &'a State, end: End, policies: &Policies<'a>) -> Self {
        let subject = |list: &[&'a Policy]| Subject::new(state, end.ip, list.iter().copied());
        let (before, after) = (subject(&policies.before), subject(&policies.after));
        let selected = subject(&policies.changing).is_selected();
        let concerned = selected || before.is_awaited() != after.is_awaited();
        Self { end, before, after, concerned }
    }
}

/// The addresses to compare. A range's address and its twin represent two addresses of the range.
pub(super) struct Parties<'a> {
    pub(super) all: Vec<Both<'a>>,
    /// By position in `all`: another address of the same range.
    twins: BTreeMap<usize, Both<'a>>,
    pub(super) ranges: Vec<IpNet>,
    /// Ranges that were not compared.
    pub(super) ranges_left: Vec<IpNet>,
    /// Whether blocks have unallocated addresses. They are not compared.
    pub(super) unallocated: bool,
}

impl<'a> Parties<'a> {
    pub(super) fn new(state: &'a State, policies: &Policies<'a>) -> Self {
        let known = known(state);
        let both = |end| Both::new(state, end, policies);
        let mut all: Vec<Both<'a>> =
            known.iter().map(|ip| both(End { ip: *ip, range: None })).collect();
        let ranges = Ranges::new(policies, &all);
        let unknown = Unknown::new(state, &known, &ranges);
        let mut twins = BTreeMap::new();
        let mut looked_at = ranges.ordered.clone();
        let ranges_left = looked_at.split_off(looked_at.len().min(RANGES_MAX));
        for range in looked_at.iter().copied() {
            let [Some(first), second] = unknown.two_of(range) else { continue };
            let of = |ip| both(End { ip, range: Some(range) });
            twins.extend(second.map(|ip| (all.len(), of(ip))));
            all.push(of(first));
        }
        let free =
            |block: &crate::ipam::Block| u128::from(block.live) <= prefix::last_offset(block.cidr);
        Self {
            all,
            twins,
            ranges: looked_at,
            ranges_left,
            unallocated: state.ipam().blocks().any(free),
        }
    }

    /// Pairs of the same family with at least one concerned side.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&Both<'a>, &Both<'a>)> {
        let concerned: Vec<usize> = (0..self.all.len()).filter(|at| self.is(*at)).collect();
        self.all.iter().enumerate().flat_map(move |(from, source)| {
            let (every, some) = match source.concerned {
                true => (0..self.all.len(), Vec::new()),
                false => (0..0, concerned.clone()),
            };
            every.chain(some).filter_map(move |to| {
                let twin = || self.twins.get(&from);
                let destination = if from == to { twin() } else { self.all.get(to) };
                let v4 = source.end.ip.is_ipv4();
                destination.filter(|to| to.end.ip.is_ipv4() == v4).map(|to| (source, to))
            })
        })
    }

    /// Number of pairs in [`Self::pairs`].
    pub(super) fn pair_count(&self) -> u64 {
        let mut counts = [(0_u64, 0_u64); 2];
        for both in &self.all {
            let (all, concerned) = &mut counts[usize::from(both.end.ip.is_ipv4())];
            *all += 1;
            *concerned += u64::from(both.concerned);
        }
        let with_another = |n: u64| n.saturating_mul(n.saturating_sub(1));
        let apart = counts.iter().map(|(all, concerned)| {
            with_another(*all).saturating_sub(with_another(all - concerned))
        });
        let twins = self.twins.keys().filter(|at| self.is(**at)).count();
        apart.sum::<u64>().saturating_add(twins as u64)
    }

    fn is(&self, at: usize) -> bool {
        self.all.get(at).is_some_and(|both| both.concerned)
    }
}

/// Addresses of endpoints, hosts and VIPs, and allocated addresses.
pub(super) fn known(state: &State) -> BTreeSet<IpAddr> {
    let mut known: BTreeSet<IpAddr> = state.endpoints().map(|endpoint| endpoint.ip).collect();
    known.extend(state.ipam().addresses_after(None).map(|allocation| allocation.ip));
    known.extend(state.hosts().flat_map(|host| host.ips()));
    known.extend(state.vips().map(|vip| vip.ip));
    known
}

/// Ranges whose boundaries may matter, the important ones first, without duplicates.
struct Ranges {
    ordered: Vec<IpNet>,
    set: BTreeSet<IpNet>,
}

impl Ranges {
    /// Both families as a whole; the ranges in changing policies; the targets of other policies; and the peers of
    /// other policies that may select the same addresses as a changing policy.
    fn new(policies: &Policies<'_>, known: &[Both<'_>]) -> Self {
        let mut ranges = Self { ordered: Vec::new(), set: BTreeSet::new() };
        let v4 = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let v6 = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
        ranges.add([IpNet::V4(v4), IpNet::V6(v6)]);
        policies
            .changing
            .iter()
            .for_each(|policy| ranges.add(targets(policy).chain(peers(policy))));
        policies.before.iter().for_each(|policy| ranges.add(targets(policy)));
        let concerned = known.iter().filter(|both| both.concerned);
        let selecting = concerned.flat_map(|both| both.before.selecting());
        let beside: BTreeSet<&PolicyName> = selecting.map(|policy| &policy.name).collect();
        let strangers = policies.changing.iter().any(|policy| targets(policy).next().is_some());
        let beside = policies.before.iter().filter(|p| strangers || beside.contains(&p.name));
        beside.for_each(|policy| ranges.add(peers(policy)));
        ranges
    }

    fn add(&mut self, ranges: impl IntoIterator<Item = IpNet>) {
        for range in ranges.into_iter().map(|range| range.trunc()) {
            if self.set.insert(range) {
                self.ordered.push(range);
            }
        }
    }
}

fn targets(policy: &Policy) -> impl Iterator<Item = IpNet> {
    policy.applied_to.iter().filter_map(|target| match target {
        Target::Cidr(cidr) => Some(*cidr),
        _ => None,
    })
}

fn peers(policy: &Policy) -> impl Iterator<Item = IpNet> {
    let ranges = policy.peers().filter_map(|peer| match peer {
        Peer::Cidr { cidr, except } => Some(core::iter::once(*cidr).chain(except.iter().copied())),
        _ => None,
    });
    ranges.flatten()
}

/// Addresses outside all blocks, without an endpoint, host or VIP.
struct Unknown<'a> {
    ranges: &'a BTreeSet<IpNet>,
    /// Blocks, and known addresses outside of them. Adjacent ranges are merged, so that a long run of blocks is
    /// skipped in one step.
    taken: BTreeSet<IpNet>,
}

impl<'a> Unknown<'a> {
    fn new(state: &State, known: &BTreeSet<IpAddr>, ranges: &'a Ranges) -> Self {
        let outside = known.iter().filter(|ip| state.ipam().block_of(**ip).is_none());
        let mut taken: Vec<IpNet> = state.ipam().blocks().map(|block| block.cidr).collect();
        taken.extend(outside.map(|ip| IpNet::from(*ip)));
        Self { ranges: &ranges.set, taken: IpNet::aggregate(&taken).into_iter().collect() }
    }

    /// Two addresses of a range outside all narrower ranges; avoids its first address if there are others.
    fn two_of(&self, range: IpNet) -> [Option<IpAddr>; 2] {
        let zero = self.free(range, 0).filter(|offset| *offset == 0);
        let beyond = |offset: u128| self.free(range, offset.checked_add(1)?);
        let first = beyond(0);
        let found = match first {
            Some(offset) => [first, beyond(offset).or(zero)],
            None => [zero, None],
        };
        found.map(|offset| offset.map(|offset| prefix::nth(range, offset)))
    }

    /// The first offset of an unknown address, starting at an offset.
    fn free(&self, range: IpNet, from: u128) -> Option<u128> {
        let last = prefix::last_offset(range);
        let mut offset = from;
        while offset <= last {
            let ip = prefix::nth(range, offset);
            let mut around = (0..=range.max_prefix_len()).map(|len| prefix::enclosing(ip, len));
            let narrower = |net: &IpNet| net.prefix_len() > range.prefix_len();
            let Some(net) = around
                .find(|net| self.taken.contains(net) || narrower(net) && self.ranges.contains(net))
            else {
                return Some(offset);
            };
            offset = prefix::offset(range, net.broadcast()).checked_add(1)?;
        }
        None
    }
}
