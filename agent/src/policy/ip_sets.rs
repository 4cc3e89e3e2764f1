//! Computes the members of sets. Every set is a predicate over prefixes: addresses of endpoints, blocks,
//! and ranges that policies name. A block is a member if its owner, without labels, satisfies the
//! predicate. An endpoint in a block is a separate member if only the endpoint satisfies it, and an
//! exception if only the block does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use romana_statemachine::name::PolicyName;
use romana_statemachine::policy::evaluate::Direction;
use romana_statemachine::policy::{Peer, Policy, Protocol};

use super::chains::{Use, without};
use super::inputs::{PolicyInputs, single};
use super::model::{Family, Member, Name, Set, SetKind};
use super::names::{self, side};
use super::options::DIRECTIONS;

/// The predicate of a set.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SetPredicate {
    /// Targets of a policy on this host.
    Targets(PolicyName),
    /// What rules refer to, on any host.
    Used(Use),
    /// What is isolated in a direction, on this host.
    Closed(Direction),
    /// All endpoints on this host.
    Local,
    /// Endpoints of Kubernetes namespaces whose pods are known.
    Kubernetes,
    /// Addresses with their links.
    Links,
}

/// What a policy selects on this host.
#[derive(Clone, Debug)]
struct Selection {
    policy: Policy,
    /// Ranges that it names.
    ranges: BTreeSet<IpNet>,
    /// All prefixes that it selects.
    nets: BTreeSet<IpNet>,
}

/// Sets and their members.
#[derive(Clone, Debug)]
pub(super) struct IpSets {
    pub(super) world: PolicyInputs,
    /// Blocks and endpoints of this host.
    here: BTreeSet<IpNet>,
    /// Ranges that policies name, with the number of policies.
    ranges: BTreeMap<IpNet, usize>,
    selections: BTreeMap<PolicyName, Selection>,
    /// Number of policies that isolate a prefix, by direction.
    isolating: BTreeMap<IpNet, [usize; 2]>,
    /// The predicate of each set, and its reference count.
    holds: BTreeMap<(Family, Name), (SetPredicate, usize)>,
    sets: OrdMap<(Family, Name), Set>,
    /// Prefixes to re-evaluate: in all sets, and in the sets of what is isolated.
    touched: BTreeSet<IpNet>,
    closing: BTreeSet<IpNet>,
    /// Ranges were added or removed, so their exceptions have to be recomputed.
    ranges_changed: bool,
}

impl IpSets {
    pub(super) fn new(world: PolicyInputs) -> Self {
        let mut new = Self {
            world,
            here: BTreeSet::new(),
            ranges: BTreeMap::new(),
            selections: BTreeMap::new(),
            isolating: BTreeMap::new(),
            holds: BTreeMap::new(),
            sets: OrdMap::new(),
            touched: BTreeSet::new(),
            closing: BTreeSet::new(),
            ranges_changed: false,
        };
        for family in Family::ALL {
            new.hold(family, names::LINKS.into(), SetPredicate::Links, SetKind::Links);
            new.hold(family, names::LOCAL.into(), SetPredicate::Local, SetKind::Nets);
            new.hold(family, names::KUBERNETES.into(), SetPredicate::Kubernetes, SetKind::Nets);
            for direction in DIRECTIONS {
                let name = side(direction).closed.into();
                new.hold(family, name, SetPredicate::Closed(direction), SetKind::Nets);
            }
        }
        new
    }

    pub(super) fn sets(&self) -> &OrdMap<(Family, Name), Set> {
        &self.sets
    }

    /// Whether a policy selects something of a family on this host.
    pub(super) fn selects(&self, policy: &PolicyName, family: Family) -> bool {
        let of = |net: &IpNet| Family::of(net.addr()) == family;
        self.selections.get(policy).is_some_and(|selection| selection.nets.iter().any(of))
    }

    /// Marks prefixes whose holder has changed.
    pub(super) fn touch(&mut self, nets: &BTreeSet<IpNet>) {
        for net in nets {
            if self.world.identity(*net).is_some() && self.world.is_here(*net) {
                self.here.insert(*net);
            } else {
                self.here.remove(net);
            }
            let here = self.here.contains(net);
            let world = &self.world;
            for selection in self.selections.values_mut() {
                let range = selection.ranges.contains(net);
                let selects = (here || range) && world.selects(&selection.policy, *net);
                if selects != selection.nets.contains(net) {
                    if selects {
                        selection.nets.insert(*net)
                    } else {
                        selection.nets.remove(net)
                    };
                    count(&mut self.isolating, &selection.policy, *net, selects);
                }
            }
        }
        self.touched.extend(nets);
    }

    /// Adds a policy; `ranges`: its target ranges that are enforced here.
    pub(super) fn select(&mut self, policy: &Policy, ranges: &[IpNet]) {
        let mut nets: BTreeSet<IpNet> =
            self.here.iter().copied().filter(|net| self.world.selects(policy, *net)).collect();
        for range in ranges {
            *self.ranges.entry(*range).or_default() += 1;
            self.ranges_changed = true;
            nets.insert(*range);
        }
        for net in &nets {
            count(&mut self.isolating, policy, *net, true);
        }
        self.closing.extend(&nets);
        let ranges = ranges.iter().copied().collect();
        let selection = Selection { policy: policy.clone(), ranges, nets };
        self.selections.insert(policy.name.clone(), selection);
    }

    /// Removes a policy.
    pub(super) fn deselect(&mut self, policy: &Policy, ranges: &[IpNet]) {
        let Some(selection) = self.selections.remove(&policy.name) else { return };
        for net in &selection.nets {
            count(&mut self.isolating, policy, *net, false);
        }
        for range in ranges {
            if let Some(uses) = self.ranges.get_mut(range) {
                *uses -= 1;
            }
            self.ranges_changed = true;
        }
        self.ranges.retain(|_, uses| *uses > 0);
        self.closing.extend(selection.nets);
    }

    /// Adds a reference to a set.
    pub(super) fn hold(&mut self, family: Family, name: Name, holds: SetPredicate, kind: SetKind) {
        let key = (family, name);
        if let Some((_, uses)) = self.holds.get_mut(&key) {
            *uses += 1;
            return;
        }
        let nets: Vec<IpNet> = match &holds {
            SetPredicate::Used(Use::Peer(Peer::Cidr { .. })) => Vec::new(),
            SetPredicate::Used(_) => self.world.everywhere().collect(),
            _ => self.here.iter().chain(self.ranges.keys()).copied().collect(),
        };
        let mut set = Set { kind, members: OrdMap::new() };
        if let SetPredicate::Used(Use::Peer(Peer::Cidr { cidr, except })) = &holds {
            let of = without(*cidr, except).into_iter();
            set.members.extend(of.map(|net| (Member::Net(net), false)));
        }
        for net in nets.into_iter().filter(|net| Family::of(net.addr()) == family) {
            self.place(&holds, &mut set, net);
        }
        self.sets.insert(key.clone(), set);
        self.holds.insert(key, (holds, 1));
    }

    /// Drops a reference to a set.
    pub(super) fn release(&mut self, family: Family, name: Name) {
        let key = (family, name);
        let Some((_, uses)) = self.holds.get_mut(&key) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.holds.remove(&key);
            self.sets.remove(&key);
        }
    }

    /// Updates the sets for all marked prefixes.
    pub(super) fn settle(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let mut closing = std::mem::take(&mut self.closing);
        closing.extend(&touched);
        // Whether an endpoint is a member of its own depends on its block.
        let blocks: Vec<IpNet> = closing.iter().copied().collect();
        for block in blocks.into_iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
            closing.extend(self.world.endpoints_in(block).map(single));
        }
        if std::mem::take(&mut self.ranges_changed) {
            closing.extend(self.world.everywhere());
            closing.extend(self.world.hosts().map(single));
        }
        let keys: Vec<(Family, Name)> = self.holds.keys().cloned().collect();
        for key in keys {
            let Some((holds, _)) = self.holds.get(&key) else { continue };
            let nets = if matches!(holds, SetPredicate::Closed(_)) { &closing } else { &touched };
            if nets.is_empty() {
                continue;
            }
            let Some(before) = self.sets.get(&key) else { continue };
            let mut set = before.clone();
            for net in nets.iter().filter(|net| Family::of(net.addr()) == key.0) {
                self.place(holds, &mut set, *net);
            }
            if set != *before {
                self.sets.insert(key, set);
            }
        }
    }

    /// Adds a prefix to a set, or removes it.
    fn place(&self, holds: &SetPredicate, set: &mut Set, net: IpNet) {
        let single = net.prefix_len() == net.max_prefix_len();
        match holds {
            SetPredicate::Used(Use::Peer(Peer::Cidr { .. })) => {}
            SetPredicate::Used(Use::Port(name, protocol)) if single => {
                self.place_ports(name, *protocol, set, net.addr());
            }
            SetPredicate::Links if single => self.place_link(set, net.addr()),
            SetPredicate::Used(Use::Port(..)) | SetPredicate::Links => {}
            holds => {
                let member = Member::Net(net);
                match self.wanted(holds, net) {
                    Some(except) if set.members.get(&member) != Some(&except) => {
                        set.members.insert(member, except);
                    }
                    None if set.members.contains_key(&member) => _ = set.members.remove(&member),
                    _ => {}
                }
            }
        }
    }

    fn place_ports(&self, name: &str, protocol: Protocol, set: &mut Set, ip: IpAddr) {
        let ports = self.world.named_ports(ip).iter();
        let wanted: BTreeSet<Member> = ports
            .filter(|port| port.name == name && port.protocol == protocol)
            .map(|port| Member::Port(ip, protocol, port.port))
            .collect();
        let (first, last) = (Member::Port(ip, protocol, 0), Member::Port(ip, protocol, u16::MAX));
        replace(set, first, last, wanted);
    }

    fn place_link(&self, set: &mut Set, ip: IpAddr) {
        let attached = self.world.attached.get(&ip);
        let link = attached.and_then(|attached| attached.link.clone());
        let wanted = link.map(|link| Member::Link(ip, link)).into_iter().collect();
        // No link name sorts after this one.
        let (first, last) = (Member::Link(ip, "".into()), Member::Link(ip, "\u{10ffff}".into()));
        replace(set, first, last, wanted);
    }

    /// Whether a prefix is a member (`false`), an exception (`true`), or neither.
    fn wanted(&self, holds: &SetPredicate, net: IpNet) -> Option<bool> {
        let anywhere = matches!(holds, SetPredicate::Used(_));
        if !anywhere && !self.here.contains(&net) {
            let covers = |range: &IpNet| *range != net && range.contains(&net);
            let range = self.ranges.contains_key(&net);
            let covered =
                matches!(holds, SetPredicate::Closed(_)) && self.ranges.keys().any(covers);
            // Other hosts enforce policy for their own endpoints.
            if (range || covered) && self.is_foreign(net) {
                return covered.then_some(true);
            }
            if !range {
                return None;
            }
        }
        let within = self.parent(holds, net).is_some_and(|parent| self.satisfies(holds, parent));
        match (self.satisfies(holds, net), within) {
            (true, false) => Some(false),
            (false, true) => Some(true),
            _ => None,
        }
    }

    /// The next larger prefix that determines membership: the block, or a range that a policy names.
    fn parent(&self, holds: &SetPredicate, net: IpNet) -> Option<IpNet> {
        // An unallocated address inherits membership from its block or range.
        self.world.identity(net)?;
        let anywhere = matches!(holds, SetPredicate::Used(_));
        let block = self.world.block_of(net.addr()).map(|(cidr, _)| cidr);
        let block = block.filter(|cidr| anywhere || self.here.contains(cidr));
        let ranges = self.ranges.keys().filter(|range| !anywhere && self.satisfies(holds, **range));
        let larger = |parent: &IpNet| *parent != net && parent.contains(&net);
        block.into_iter().chain(ranges.copied()).filter(larger).max_by_key(IpNet::prefix_len)
    }

    fn satisfies(&self, holds: &SetPredicate, net: IpNet) -> bool {
        let identity = self.world.identity(net);
        match holds {
            SetPredicate::Targets(policy) => {
                self.selections.get(policy).is_some_and(|selection| selection.nets.contains(&net))
            }
            SetPredicate::Used(Use::Peer(peer)) => {
                identity.is_some_and(|identity| peer.includes(&identity))
            }
            SetPredicate::Closed(direction) => {
                let isolated = self.isolating.get(&net);
                isolated.is_some_and(|counts| counts[*direction as usize] > 0)
                    || self.world.is_awaited(net)
                    || identity.is_some_and(|identity| {
                        identity.labels.is_none()
                            || *direction == Direction::Ingress && !identity.is_kubernetes()
                    })
            }
            SetPredicate::Local => identity.is_some(),
            SetPredicate::Kubernetes => identity
                .is_some_and(|identity| identity.is_kubernetes() && identity.labels.is_some()),
            SetPredicate::Used(Use::Port(..)) | SetPredicate::Links => false,
        }
    }

    /// Whether another host enforces policy for a prefix.
    fn is_foreign(&self, net: IpNet) -> bool {
        let host = |ip: IpAddr| net == single(ip);
        self.world.identity(net).is_some() || self.world.hosts().any(host)
    }
}

fn count(isolating: &mut BTreeMap<IpNet, [usize; 2]>, policy: &Policy, net: IpNet, more: bool) {
    let counts = isolating.entry(net).or_default();
    for direction in DIRECTIONS.into_iter().filter(|direction| policy.isolates(*direction)) {
        let count = &mut counts[direction as usize];
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
    }
    if *counts == [0, 0] {
        isolating.remove(&net);
    }
}

/// Replaces the members from `first` to `last`.
fn replace(set: &mut Set, first: Member, last: Member, wanted: BTreeSet<Member>) {
    let there: Vec<Member> =
        set.members.range(first..=last).map(|(member, _)| member.clone()).collect();
    for gone in there.iter().filter(|member| !wanted.contains(member)) {
        set.members.remove(gone);
    }
    for new in wanted.into_iter().filter(|member| !there.contains(member)) {
        set.members.insert(new, false);
    }
}
