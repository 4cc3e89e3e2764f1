//! Compiles the filter incrementally: the cost of an update depends on the change, not on the size of
//! the cluster. [`Compiler::new`] followed by one [`Compiler::update`] defines the result; a test
//! compares incremental updates with it.
//!
//! `members` computes the content of sets; `chains` and `base` generate the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use romana_statemachine::Revision;
use romana_statemachine::name::PolicyName;
use romana_statemachine::policy::evaluate::Direction;
use romana_statemachine::policy::{Policy, Target};

use super::base::{self, Isolated};
use super::chains::{self, Use, without};
use super::delta::{Delta, touched};
use super::inputs::PolicyInputs;
use super::ip_sets::{IpSets, SetPredicate};
use super::model::{Action, Chain, Family, Filter, Match, Name, Rule, SetKind};
use super::names::{self, Side, side};
use super::options::{DIRECTIONS, Options};

/// A policy, as far as it concerns this host.
#[derive(Clone, Debug)]
struct Unit {
    policy: Policy,
    /// How far it selects this host itself.
    host: Isolated,
    /// Its target ranges that are enforced here.
    ranges: Vec<IpNet>,
    /// Families in which its chains are in the filter, and whether it selects endpoints here; the
    /// chains, and the sets they use.
    active: BTreeMap<Family, bool>,
    chains: Vec<(Family, Name)>,
    uses: Vec<(Family, Use)>,
    problems: BTreeSet<String>,
}

/// What a policy's lines in the shared chains depend on, besides its name.
#[derive(PartialEq)]
struct Outline {
    active: BTreeMap<Family, bool>,
    isolates: [bool; 2],
    host: Isolated,
    /// Revision for log prefixes; `None`: denials are not logged.
    revision: Option<Revision>,
}

/// The incremental compiler.
#[derive(Clone, Debug)]
pub struct Compiler {
    options: Options,
    units: BTreeMap<PolicyName, Unit>,
    members: IpSets,
    chains: imbl::OrdMap<(Family, Name), Chain>,
}

impl Compiler {
    /// The initial state without any knowledge: all containers here are isolated.
    #[must_use]
    pub fn new(world: &PolicyInputs, options: Options) -> Self {
        let members = IpSets::new(PolicyInputs::empty(world.view.host.clone()));
        let (units, chains) = Default::default();
        let mut new = Self { options, units, members, chains };
        new.put_base();
        new.put_lines();
        new
    }

    /// The desired filter.
    #[must_use]
    pub fn filter(&self) -> Filter {
        Filter { sets: self.members.sets().clone(), chains: self.chains.clone() }
    }

    /// What cannot be expressed in the kernel, and is denied therefore.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let of = |(name, unit): (&PolicyName, &Unit)| {
            unit.problems.iter().map(|why| format!("policy {name}: {why}")).collect::<Vec<_>>()
        };
        self.units.iter().flat_map(of).collect()
    }

    /// Policies that concern this host.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyName> {
        self.units.iter().filter(|(_, unit)| !unit.active.is_empty()).map(|(name, _)| name)
    }

    /// Updates the filter to a new state of the world.
    pub fn update(&mut self, world: PolicyInputs) {
        let before = &self.members.world;
        let fresh =
            world.view.networks != before.view.networks || world.own_ips() != before.own_ips();
        if fresh {
            // A rare change that affects everything.
            *self = Self::new(&world, self.options.clone());
        }
        let Delta { nets, mut policies, own_blocks } = touched(&self.members.world, &world);
        if own_blocks {
            let ranged =
                |policy: &Policy| policy.applied_to.iter().any(|t| matches!(t, Target::Cidr(_)));
            let ranged = self.units.iter().filter(|(_, unit)| ranged(&unit.policy));
            policies.extend(ranged.map(|(name, _)| name.clone()));
        }
        let before: BTreeMap<&PolicyName, Option<Outline>> =
            policies.iter().map(|name| (name, self.outline(name))).collect();
        self.members.world = world;
        policies.iter().for_each(|name| self.drop_unit(name));
        self.members.touch(&nets);
        policies.iter().for_each(|name| self.take_unit(name));
        let changed = self.activate_all();
        self.members.settle();
        let same = |name: &PolicyName| before.get(name).is_some_and(|it| *it == self.outline(name));
        if fresh || !changed.iter().chain(&policies).all(same) {
            self.put_base();
            self.put_lines();
        }
    }

    /// The part of a policy that the shared chains depend on. If it is unchanged, they need no update.
    fn outline(&self, name: &PolicyName) -> Option<Outline> {
        let unit = self.units.get(name).filter(|unit| !unit.active.is_empty())?;
        let isolates = DIRECTIONS.map(|direction| unit.policy.isolates(direction));
        let revision = self.options.log.then(|| self.members.world.rules.revision_of(name));
        Some(Outline { active: unit.active.clone(), isolates, host: unit.host.clone(), revision })
    }

    fn drop_unit(&mut self, name: &PolicyName) {
        self.retire(name);
        if let Some(unit) = self.units.remove(name) {
            self.members.deselect(&unit.policy, &unit.ranges);
        }
    }

    fn take_unit(&mut self, name: &PolicyName) {
        let world = &self.members.world;
        let Some(policy) = world.rules.policies.get(name).cloned() else { return };
        let cidrs = policy.applied_to.iter().filter_map(|target| match target {
            Target::Cidr(cidr) => Some(*cidr),
            _ => None,
        });
        let cidrs: Vec<IpNet> = cidrs.collect();
        let own = world.own_ips().iter().copied();
        let host = Isolated {
            whole: policy.applied_to.contains(&Target::Host),
            ips: own.filter(|ip| cidrs.iter().any(|cidr| cidr.contains(ip))).collect(),
        };
        let ranges = cidrs.iter().filter(|cidr| world.is_range(**cidr));
        // As prefixes that a set can hold.
        let ranges: BTreeSet<IpNet> = ranges.flat_map(|cidr| without(*cidr, &[])).collect();
        let ranges: Vec<IpNet> = ranges.into_iter().collect();
        self.members.select(&policy, &ranges);
        let (active, chains, uses, problems) = Default::default();
        let unit = Unit { policy, host, ranges, active, chains, uses, problems };
        self.units.insert(name.clone(), unit);
    }

    /// Adds chains of policies that start to concern this host, and removes those of policies that cease to.
    /// Returns the policies affected.
    fn activate_all(&mut self) -> BTreeSet<PolicyName> {
        let mut changed = BTreeSet::new();
        let names: Vec<PolicyName> = self.units.keys().cloned().collect();
        for name in names {
            let Some(unit) = self.units.get(&name) else { continue };
            let concerns = |family: Family| {
                let of = |ip: &std::net::IpAddr| Family::of(*ip) == family;
                let selects = self.members.selects(&name, family);
                let host = unit.host.whole || unit.host.ips.iter().any(of);
                (selects || host).then_some((family, selects))
            };
            let wanted: BTreeMap<Family, bool> =
                Family::ALL.into_iter().filter_map(concerns).collect();
            if wanted != unit.active {
                self.retire(&name);
                self.activate(&name, wanted);
                changed.insert(name);
            }
        }
        changed
    }

    fn activate(&mut self, name: &PolicyName, families: BTreeMap<Family, bool>) {
        let revision = self.members.world.rules.revision_of(name);
        let Some(unit) = self.units.get_mut(name) else { return };
        for (family, selects) in families.clone() {
            let directions = DIRECTIONS.into_iter();
            for direction in directions.filter(|direction| unit.policy.isolates(*direction)) {
                let built = chains::build(&unit.policy, revision, direction, family);
                for (chain, rules) in built.chains {
                    unit.chains.push((family, chain.clone()));
                    let chain_rules = Chain { rules: Arc::new(rules), ordered: true };
                    self.chains.insert((family, chain), chain_rules);
                }
                unit.uses.extend(built.uses.into_iter().map(|one| (family, one)));
                unit.problems.extend(built.problems);
            }
            if selects {
                let holds = SetPredicate::Targets(name.clone());
                self.members.hold(family, names::target_set(name), holds, SetKind::Nets);
            }
        }
        for (family, one) in &unit.uses {
            let kind = match one {
                Use::Peer(_) => SetKind::Nets,
                Use::Port(..) => SetKind::Ports,
            };
            self.members.hold(*family, one.set(), SetPredicate::Used(one.clone()), kind);
        }
        unit.active = families;
    }

    /// Removes a policy's chains.
    fn retire(&mut self, name: &PolicyName) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let families = std::mem::take(&mut unit.active);
        for key in unit.chains.drain(..) {
            self.chains.remove(&key);
        }
        for (family, one) in unit.uses.drain(..) {
            self.members.release(family, one.set());
        }
        for (family, _) in families.iter().filter(|(_, selects)| **selects) {
            self.members.release(*family, names::target_set(name));
        }
        unit.problems.clear();
    }

    fn put_base(&mut self) {
        for family in Family::ALL {
            let isolated = |direction: Direction| {
                let mut all = Isolated::default();
                for unit in self.units.values().filter(|unit| unit.policy.isolates(direction)) {
                    all.whole |= unit.host.whole;
                    all.ips.extend(&unit.host.ips);
                }
                all
            };
            let fixed = base::chains(family, &self.options, &isolated);
            fixed.into_iter().for_each(|(name, chain)| self.put_chain(family, name, chain));
        }
    }

    /// Updates the policies' lines in the shared chains.
    fn put_lines(&mut self) {
        for family in Family::ALL {
            for direction in DIRECTIONS {
                let &Side { policies, denied, host_policies, .. } = side(direction);
                let mut lines = [policies, denied, host_policies].map(|chain| (chain, Vec::new()));
                for (name, unit) in &self.units {
                    if unit.active.contains_key(&family) && unit.policy.isolates(direction) {
                        let [jumps, counts, of_host] = &mut lines;
                        self.lines(name, unit, (family, direction), &mut jumps.1, &mut counts.1);
                        host_lines(name, unit, (family, direction), &mut of_host.1, &mut counts.1);
                    }
                }
                for (chain, rules) in &mut lines {
                    let rules = std::mem::take(rules);
                    let rules = Chain { rules: Arc::new(rules), ordered: false };
                    self.put_chain(family, (*chain).into(), rules);
                }
            }
        }
    }

    fn lines(
        &self,
        name: &PolicyName,
        unit: &Unit,
        (family, direction): (Family, Direction),
        jumps: &mut Vec<Rule>,
        counts: &mut Vec<Rule>,
    ) {
        if unit.active.get(&family) != Some(&true) {
            return;
        }
        let set = names::target_set(name);
        let target = Match::In { set, end: base::end_of(direction), not: false };
        let comment = format!("policy {}", unit.policy.name);
        let chain = names::policy_chain(name, direction);
        jumps.push(Rule::new(Action::Jump(chain)).when(target.clone()).saying(&comment));
        counts.push(Rule::new(Action::Count).when(target.clone()).saying(&comment));
        if self.options.log {
            let revision = self.members.world.rules.revision_of(name);
            let prefix = base::log_prefix(direction, name.as_str(), Some(revision));
            counts.push(Rule::new(Action::Log(prefix)).when(target).saying(&comment));
        }
    }

    /// Keeps an equal chain, so that a comparison by pointer skips it.
    fn put_chain(&mut self, family: Family, name: Name, chain: Chain) {
        let key = (family, name);
        if self.chains.get(&key) != Some(&chain) {
            self.chains.insert(key, chain);
        }
    }
}

/// Lines of a policy that selects this host itself.
fn host_lines(
    name: &PolicyName,
    unit: &Unit,
    (family, direction): (Family, Direction),
    jumps: &mut Vec<Rule>,
    counts: &mut Vec<Rule>,
) {
    let end = base::end_of(direction);
    let comment = format!("policy {name}, for hosts");
    let jump = Rule::new(Action::Jump(names::policy_chain(name, direction)));
    if unit.host.whole {
        jumps.push(jump.saying(&comment));
        counts.push(Rule::new(Action::Count).when(Match::Own(end)).saying(&comment));
        return;
    }
    for ip in unit.host.ips.iter().filter(|ip| Family::of(**ip) == family) {
        let target = Match::Net(end, (*ip).into());
        jumps.push(jump.clone().when(target.clone()).saying(&comment));
        counts.push(Rule::new(Action::Count).when(target).saying(&comment));
    }
}
