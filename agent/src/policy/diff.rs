//! Computes the changes that turn the kernel's filter into the desired one, from the filter
//! written before or from what was read.
//!
//! ```text
//!   1  ipset restore      sets that are new, members that are more
//!   2  iptables-restore   one transaction for each family: chains, their rules, the jumps to them
//!   3  ipset restore      what becomes closed; members that are fewer; links last; sets that are not needed
//! ```
//! The order of changes never opens anything that should be closed: a policy's rules are in place before its
//! targets are isolated, and targets are isolated before a container's link is let through.

use std::collections::BTreeMap;

use imbl::ordmap::DiffItem;

use super::model::{Chain, Family, Filter, Member, Name, Set, Style};
use super::names::{self, HOOKS, side};
use crate::ownership::CHAIN_PREFIX;
use romana_statemachine::policy::evaluate::Direction;

/// More members than any of our sets needs; the kernel's default is 65 536.
const MEMBERS_MAX: u32 = 1 << 20;

/// The filter as read from the kernel, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Our sets, by full name: type, and members with `nomatch` if they are exceptions.
    pub sets: BTreeMap<String, (String, BTreeMap<String, bool>)>,
    /// Rules of our chains.
    pub chains: BTreeMap<(Family, String), Vec<String>>,
    /// Rules of the built-in chains that jump to ours.
    pub hooks: BTreeMap<(Family, String), Vec<String>>,
}

/// Input for the packet filter's programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// For `ipset restore`, before the rules.
    pub before: Vec<String>,
    /// For `iptables-restore`, by family.
    pub rules: BTreeMap<Family, Vec<String>>,
    /// For `ipset restore`, after the rules.
    pub after: Vec<String>,
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.rules.is_empty() && self.after.is_empty()
    }

    /// Number of lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.before.len() + self.after.len() + self.rules.values().map(Vec::len).sum::<usize>()
    }
}

/// Collects changes in the order of execution.
#[derive(Debug, Default)]
struct Script {
    create: Vec<String>,
    more: Vec<String>,
    close: Vec<String>,
    fewer: Vec<String>,
    links: Vec<String>,
    destroy: Vec<String>,
    declare: BTreeMap<Family, Vec<String>>,
    append: BTreeMap<Family, Vec<String>>,
    hook: BTreeMap<Family, Vec<String>>,
    delete: BTreeMap<Family, Vec<String>>,
}

/// The style of rules of each family.
pub type Styles<'a> = &'a dyn Fn(Family) -> Style;

/// Changes from one filter to another.
#[must_use]
pub fn step(before: &Filter, after: &Filter, styles: Styles<'_>) -> Changes {
    let mut script = Script::default();
    for item in before.sets.diff(&after.sets) {
        match item {
            DiffItem::Add((family, name), set) => script.new_set(*family, name, set),
            DiffItem::Remove((family, name), _) => script.destroy_set(&full(*family, name)),
            DiffItem::Update { old: ((family, name), old), new: (_, new) } => {
                script.step_set(*family, name, old, new);
            }
        }
    }
    for item in before.chains.diff(&after.chains) {
        match item {
            DiffItem::Add((family, name), chain) => {
                script.write_chain(*family, name, &lines(chain, styles(*family)));
            }
            DiffItem::Remove((family, name), _) => script.delete_chain(*family, name),
            DiffItem::Update { old: ((family, name), old), new: (_, new) } => {
                let [old, lines] = [old, new].map(|chain| lines(chain, styles(*family)));
                script.change_chain(*family, name, &old, &lines, new.ordered);
            }
        }
    }
    script.end()
}

/// Changes from what was read to a filter. `only_missing`: existing objects are left unchanged.
#[must_use]
pub fn repair(actual: &Actual, wanted: &Filter, styles: Styles<'_>, only_missing: bool) -> Changes {
    let mut script = Script::default();
    for ((family, name), set) in &wanted.sets {
        let there = actual.sets.get(&full(*family, name));
        match there.filter(|(kind, _)| kind == set.kind.as_str()) {
            Some((_, members)) => script.repair_set(*family, name, members, set, only_missing),
            None => script.new_set(*family, name, set),
        }
    }
    for ((family, name), chain) in &wanted.chains {
        let lines = lines(chain, styles(*family));
        match actual.chains.get(&(*family, name.to_string())) {
            Some(_) if only_missing => {}
            Some(there) => script.change_chain(*family, name, there, &lines, chain.ordered),
            None => script.write_chain(*family, name, &lines),
        }
    }
    for family in Family::ALL {
        for (hook, chain) in HOOKS {
            let there = actual.hooks.get(&(family, hook.to_owned()));
            script.hook(family, hook, chain, there.map(Vec::as_slice).unwrap_or_default());
        }
    }
    if !only_missing {
        let kept = |name: &str| {
            let digits = name.len().saturating_sub(1);
            let (name, digit) = name.split_at(digits);
            let family = Family::ALL.into_iter().find(|family| digit.starts_with(family.digit()));
            family.is_some_and(|family| wanted.sets.contains_key(&(family, name.into())))
        };
        actual.sets.keys().filter(|name| !kept(name)).for_each(|name| script.destroy_set(name));
        for (family, name) in actual.chains.keys() {
            if !wanted.chains.contains_key(&(*family, name.as_str().into())) {
                script.delete_chain(*family, name);
            }
        }
    }
    script.end()
}

/// Removes everything that is ours.
#[must_use]
pub fn removal(actual: &Actual) -> Changes {
    let mut changes = Changes::default();
    for ((family, hook), lines) in &actual.hooks {
        let jumps = HOOKS.map(|(_, chain)| format!("-j {chain}"));
        let jumps = lines.iter().filter(|line| jumps.contains(line));
        let gone: Vec<String> = jumps.map(|jump| format!("-D {hook} {jump}")).collect();
        if !gone.is_empty() {
            changes.rules.entry(*family).or_default().extend(gone);
        }
    }
    for action in ["-F", "-X"] {
        for (family, chain) in actual.chains.keys() {
            changes.rules.entry(*family).or_default().push(format!("{action} {chain}"));
        }
    }
    changes.after = actual.sets.keys().map(|set| format!("destroy {set}")).collect();
    changes
}

/// The name of a set in the kernel.
#[must_use]
pub fn full(family: Family, name: &str) -> String {
    format!("{name}{}", family.digit())
}

fn lines(chain: &Chain, style: Style) -> Vec<String> {
    chain.rules.iter().map(|rule| rule.text(style)).collect()
}

fn flag(except: bool) -> &'static str {
    if except { " nomatch" } else { "" }
}

impl Script {
    fn new_set(&mut self, family: Family, name: &Name, set: &Set) {
        let (name, kind) = (full(family, name), set.kind.as_str());
        let inet = if family == Family::V4 { "inet" } else { "inet6" };
        self.create.push(format!("create {name} {kind} family {inet} maxelem {MEMBERS_MAX}"));
        let members = set.members.iter();
        let add =
            |(member, except): (&Member, &bool)| format!("add {name} {member}{}", flag(*except));
        self.create.extend(members.map(add));
    }

    fn destroy_set(&mut self, name: &str) {
        self.destroy.push(format!("destroy {name}"));
    }

    fn step_set(&mut self, family: Family, name: &Name, old: &Set, new: &Set) {
        for item in old.members.diff(&new.members) {
            match item {
                DiffItem::Add(member, except) => {
                    self.add(family, name, &member.to_string(), *except)
                }
                DiffItem::Remove(member, _) => self.remove(family, name, &member.to_string()),
                DiffItem::Update { new: (member, except), .. } => {
                    self.turn(family, name, &member.to_string(), *except);
                }
            }
        }
    }

    fn repair_set(
        &mut self,
        family: Family,
        name: &Name,
        there: &BTreeMap<String, bool>,
        wanted: &Set,
        only_missing: bool,
    ) {
        let members = wanted.members.iter().map(|(member, except)| (member.to_string(), *except));
        let wanted: BTreeMap<String, bool> = members.collect();
        for (member, except) in &wanted {
            match there.get(member) {
                None => self.add(family, name, member, *except),
                Some(is) if is != except && !only_missing => {
                    self.turn(family, name, member, *except)
                }
                Some(_) => {}
            }
        }
        for gone in there.keys().filter(|member| !only_missing && !wanted.contains_key(*member)) {
            self.remove(family, name, gone);
        }
    }

    fn add(&mut self, family: Family, name: &Name, member: &str, except: bool) {
        let closed =
            [Direction::Ingress, Direction::Egress].map(|direction| side(direction).closed);
        let list = match name.as_ref() {
            names::LINKS => &mut self.links,
            name if closed.contains(&name) => &mut self.close,
            _ => &mut self.more,
        };
        list.push(format!("add {}{} {member}{}", name, family.digit(), flag(except)));
    }

    fn remove(&mut self, family: Family, name: &Name, member: &str) {
        self.fewer.push(format!("del {}{} {member}", name, family.digit()));
    }

    /// Turns a member into an exception, or back.
    fn turn(&mut self, family: Family, name: &Name, member: &str, except: bool) {
        let set = full(family, name);
        self.fewer.push(format!("del {set} {member}"));
        self.fewer.push(format!("add {set} {member}{}", flag(except)));
    }

    /// Declaring a chain empties it: the transaction replaces its content, and nothing else.
    fn write_chain(&mut self, family: Family, name: &str, lines: &[String]) {
        self.declare.entry(family).or_default().push(format!(":{name} - [0:0]"));
        let append = self.append.entry(family).or_default();
        append.extend(lines.iter().map(|line| format!("-A {name} {line}")));
    }

    fn change_chain(
        &mut self,
        family: Family,
        name: &str,
        old: &[String],
        new: &[String],
        ordered: bool,
    ) {
        if ordered {
            if old != new {
                self.write_chain(family, name, new);
            }
            return;
        }
        let (less, more) = (but(old, new), but(new, old));
        if less.len() + more.len() > new.len() {
            return self.write_chain(family, name, new);
        }
        if !less.is_empty() || !more.is_empty() {
            let append = self.append.entry(family).or_default();
            append.extend(less.iter().map(|line| format!("-D {name} {line}")));
            append.extend(more.iter().map(|line| format!("-A {name} {line}")));
        }
    }

    fn delete_chain(&mut self, family: Family, name: &str) {
        let delete = self.delete.entry(family).or_default();
        // Chains refer to each other, so all are emptied before any is deleted.
        delete.insert(0, format!("-F {name}"));
        delete.push(format!("-X {name}"));
    }

    /// Makes our chain the first jump, exactly once.
    fn hook(&mut self, family: Family, hook: &str, chain: &str, there: &[String]) {
        let jump = format!("-j {chain}");
        let calls = there.iter().filter(|line| **line == jump).count();
        if calls == 1 && there.first() == Some(&jump) {
            return;
        }
        let lines = self.hook.entry(family).or_default();
        lines.extend((0..calls).map(|_| format!("-D {hook} {jump}")));
        lines.push(format!("-I {hook} 1 {jump}"));
    }

    fn end(mut self) -> Changes {
        let mut rules = BTreeMap::new();
        for family in Family::ALL {
            let parts = [&mut self.declare, &mut self.append, &mut self.hook, &mut self.delete];
            let lines: Vec<String> = parts
                .into_iter()
                .flat_map(|part| part.remove(&family).unwrap_or_default())
                .collect();
            if !lines.is_empty() {
                rules.insert(family, lines);
            }
        }
        let before = [self.create, self.more].concat();
        let after = [self.close, self.fewer, self.links, self.destroy].concat();
        Changes { before, rules, after }
    }
}

/// Lines that exceed those of another list (multiset difference).
fn but<'a>(lines: &'a [String], others: &[String]) -> Vec<&'a String> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for line in others {
        *left.entry(line).or_default() += 1;
    }
    let surplus = |line: &&String| match left.get_mut(line.as_str()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    lines.iter().filter(surplus).collect()
}

/// Whether a chain or set is ours.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    // The masquerade chain has its own reconciler.
    name.starts_with(CHAIN_PREFIX) && name != crate::ownership::MASQUERADE_CHAIN
}
