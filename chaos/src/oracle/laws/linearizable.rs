//! Linearizability (Herlihy, Wing: *Linearizability: A Correctness Condition for Concurrent
//! Objects*, 1990) of allocation by name, using only the clients' observations: times and answers.
//! It does not rely on revisions.
//!
//! The search is that of Wing and Gong (*Testing and Verifying Concurrent Objects*, 1993) with the
//! memoization of Lowe (*Testing for Linearizability*, 2017): an operation that no other must precede is
//! tried first, and a configuration (set of completed operations and resulting state) is never visited twice.
//! Names are judged separately: a history is linearizable if and only if it is for each object.
//!
//! An operation with unknown outcome may take effect at any time after its invocation, or never. With the
//! client library, which retries, it may take effect twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use romana_statemachine::Command;
use romana_statemachine::name::{AddressName, HostName, TenantId};

use super::super::{Case, Law, Verdict};
use crate::evidence::{Ask, Call, Nanos, Outcome};

/// Limit of search steps for one name; beyond that, the name counts as not judged.
const STEPS_MAX: usize = 300_000;

pub(in super::super) const LAW: Law = Law {
    name: "linearizable",
    says: "for each name there is an order of its operations that explains all answers and respects real time",
    check,
};

/// The state of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holding {
    host: HostName,
    tenant: TenantId,
    /// `None`: unknown, as no answer contained it.
    ip: Option<IpAddr>,
}

/// The effect of an operation on a name, and its answer.
#[derive(Clone, Debug)]
enum Deed {
    /// Allocated; `told`: the address in the answer.
    Allocate { host: HostName, tenant: TenantId, told: Option<IpAddr> },
    /// Refused, as the name belongs to something else.
    InUse { host: HostName, tenant: TenantId },
    /// The address was released.
    Release,
    /// A host was evicted: its addresses are released.
    Evict(HostName),
    /// Read, with its result.
    Read(Option<(IpAddr, HostName)>),
}

/// An operation.
#[derive(Clone, Debug)]
struct Operation {
    invoked: Nanos,
    returned: Nanos,
    /// It may not have happened.
    optional: bool,
    deed: Deed,
}

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for (name, operations) in histories(&case.evidence.calls) {
        match search(&operations) {
            Found::Order => {}
            Found::None(best) => {
                let what = format!(
                    "{name}: {} operations, and no order explains more than {best} of them: {}",
                    operations.len(),
                    shown(&operations, best)
                );
                verdict.broken(what);
            }
            Found::TooMany => verdict.broken(format!(
                "{name}: not decided, {} operations are too many",
                operations.len()
            )),
        }
    }
}

fn shown(operations: &[Operation], best: usize) -> String {
    let from = best.saturating_sub(4);
    let lines = operations.iter().skip(from).take(10);
    let line =
        |it: &Operation| format!("{}-{} us {:?}", it.invoked / 1000, it.returned / 1000, it.deed);
    lines.map(line).collect::<Vec<_>>().join("; ")
}

/// The operations of each name, by time of invocation.
fn histories(calls: &[Call]) -> BTreeMap<&AddressName, Vec<Operation>> {
    let mut names: BTreeMap<&AddressName, Vec<Operation>> = BTreeMap::new();
    for call in calls {
        let Some(name) = name(&call.ask) else { continue };
        names.entry(name).or_default().extend(operations(call));
    }
    let evictions: Vec<Operation> = calls.iter().filter_map(eviction).collect();
    for operations in names.values_mut() {
        let hosts: HashSet<HostName> = operations.iter().filter_map(|it| host(&it.deed)).collect();
        let first = operations.iter().map(|it| it.invoked).min().unwrap_or_default();
        let last = operations.iter().filter(|it| !it.optional).map(|it| it.returned).max();
        let concerns = |it: &&Operation| {
            matches!(&it.deed, Deed::Evict(host) if hosts.contains(host))
                && it.returned > first
                && Some(it.invoked) < last
        };
        operations.extend(evictions.iter().filter(concerns).cloned());
        operations.sort_by_key(|operation| operation.invoked);
    }
    names
}

fn name(ask: &Ask) -> Option<&AddressName> {
    match ask {
        Ask::Read(name) => Some(name),
        Ask::Local(..) | Ask::Who(_) => None,
        Ask::Command(command) => match &**command {
            Command::AllocateAddress(ask) => Some(&ask.name),
            Command::ReleaseAddress(ask) => Some(&ask.address),
            _ => None,
        },
    }
}

fn host(deed: &Deed) -> Option<HostName> {
    match deed {
        Deed::Allocate { host, .. } => Some(host.clone()),
        _ => None,
    }
}

/// The operation of a call, and a second one that a retry may have caused.
fn operations(call: &Call) -> Vec<Operation> {
    let (invoked, returned) = (call.invoked, call.returned);
    let new = |optional, deed| Operation {
        invoked,
        returned: if optional { Nanos::MAX } else { returned },
        optional,
        deed,
    };
    let possible = match &call.ask {
        Ask::Command(command) => match &**command {
            Command::AllocateAddress(ask) => {
                let (host, tenant) = (ask.host.clone(), ask.tenant.clone());
                Deed::Allocate { host, tenant, told: None }
            }
            _ => Deed::Release,
        },
        _ => Deed::Read(None),
    };
    let is_read = matches!(possible, Deed::Read(_));
    match (&call.outcome, &possible) {
        (Outcome::Acked { held, .. }, Deed::Read(_)) => {
            let found = held.as_ref().map(|held| (held.ip, held.host.clone()));
            vec![new(false, Deed::Read(found))]
        }
        (Outcome::Acked { held, .. }, deed) => {
            let mut done = deed.clone();
            if let (Deed::Allocate { told, .. }, Some(held)) = (&mut done, held) {
                *told = Some(held.ip);
            }
            let mut all = vec![new(false, done)];
            if call.retried {
                // An earlier attempt took effect before the answer.
                all.push(Operation { returned, ..new(true, possible) });
            }
            all
        }
        (Outcome::Refused { code }, Deed::Allocate { host, tenant, .. })
            if code == "AddressNameInUse" && !call.retried =>
        {
            vec![new(false, Deed::InUse { host: host.clone(), tenant: tenant.clone() })]
        }
        (Outcome::Unknown, _) if !is_read => vec![new(true, possible)],
        (Outcome::Refused { .. } | Outcome::Unavailable, _) if call.retried && !is_read => {
            vec![Operation { returned, ..new(true, possible) }]
        }
        _ => Vec::new(),
    }
}

fn eviction(call: &Call) -> Option<Operation> {
    let Some(Command::RemoveHost(remove)) = call.command() else { return None };
    if !remove.force || !call.may_have_happened() && !call.retried {
        return None;
    }
    let optional = !matches!(call.outcome, Outcome::Acked { .. }) || call.retried;
    let returned = if call.outcome == Outcome::Unknown { Nanos::MAX } else { call.returned };
    let deed = Deed::Evict(remove.name.clone());
    Some(Operation { invoked: call.invoked, returned, optional, deed })
}

/// The state of a name after an operation; `None`: the operation is not possible in this state.
fn step(holding: &Option<Holding>, deed: &Deed) -> Option<Option<Holding>> {
    match (deed, holding) {
        (Deed::Allocate { host, tenant, told }, None) => {
            let (host, tenant) = (host.clone(), tenant.clone());
            Some(Some(Holding { host, tenant, ip: *told }))
        }
        (Deed::Allocate { host, tenant, told }, Some(held)) => {
            let mine = held.host == *host && held.tenant == *tenant;
            let same = told.is_none() || held.ip.is_none() || held.ip == *told;
            let known = Holding { ip: held.ip.or(*told), ..held.clone() };
            (mine && same).then_some(Some(known))
        }
        (Deed::InUse { host, tenant }, Some(held)) => {
            let others = held.host != *host || held.tenant != *tenant;
            others.then(|| holding.clone())
        }
        (Deed::InUse { .. }, None) => None,
        (Deed::Release, _) => Some(None),
        (Deed::Evict(host), Some(held)) if held.host == *host => Some(None),
        (Deed::Evict(_), _) => Some(holding.clone()),
        (Deed::Read(None), None) => Some(None),
        (Deed::Read(Some((ip, host))), Some(held)) => {
            let same = held.host == *host && held.ip.is_none_or(|held| held == *ip);
            same.then(|| Some(Holding { ip: Some(*ip), ..held.clone() }))
        }
        (Deed::Read(_), _) => None,
    }
}

enum Found {
    Order,
    /// At most this many operations could be ordered.
    None(usize),
    TooMany,
}

/// A node of the search: completed operations, the state after them, and the next candidate.
struct Place {
    done: Done,
    holding: Option<Holding>,
    next: usize,
}

/// A set of completed operations: a prefix, and some after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Done {
    first: usize,
    more: Vec<usize>,
}

impl Done {
    fn has(&self, at: usize) -> bool {
        at < self.first || self.more.binary_search(&at).is_ok()
    }

    fn with(&self, at: usize) -> Self {
        let mut more = self.more.clone();
        let place = more.binary_search(&at).unwrap_or_else(|place| place);
        more.insert(place, at);
        let mut first = self.first;
        let run = more.iter().take_while(|done| {
            let next = **done == first;
            first += usize::from(next);
            next
        });
        let run = run.count();
        more.drain(..run);
        Self { first, more }
    }

    fn count(&self) -> usize {
        self.first + self.more.len()
    }

    /// The completed operation that was invoked last.
    fn last(&self) -> Option<usize> {
        self.more.last().copied().or_else(|| self.first.checked_sub(1))
    }
}

/// Searches for an order. Operations are sorted by time of invocation.
fn search(operations: &[Operation]) -> Found {
    let mut tried: HashMap<Done, HashSet<Option<Holding>>> = HashMap::new();
    let mut path = vec![Place { done: Done::default(), holding: None, next: 0 }];
    let (mut steps, mut best) = (0, 0);
    while let Some(place) = path.last_mut() {
        steps += 1;
        if steps > STEPS_MAX {
            return Found::TooMany;
        }
        let waiting = |at: &usize| !place.done.has(*at) && !operations[*at].optional;
        let open = (place.done.first..operations.len()).filter(waiting);
        // An operation that returned before another was invoked precedes it.
        let Some(first_answer) = open.map(|at| operations[at].returned).min() else {
            return Found::Order;
        };
        let at = place.next;
        if at >= operations.len() || operations[at].invoked > first_answer {
            path.pop();
            continue;
        }
        place.next += 1;
        let over = |last: usize| operations[at].returned < operations[last].invoked;
        if place.done.has(at) || place.done.last().is_some_and(over) {
            continue;
        }
        let Some(holding) = step(&place.holding, &operations[at].deed) else { continue };
        let done = place.done.with(at);
        best = best.max(done.count());
        if tried.entry(done.clone()).or_default().insert(holding.clone()) {
            let next = done.first;
            path.push(Place { done, holding, next });
        }
    }
    Found::None(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(invoked: Nanos, returned: Nanos, deed: Deed) -> Operation {
        Operation { invoked, returned, optional: false, deed }
    }

    fn allocate(host: &str, told: u8) -> Deed {
        let told = Some(IpAddr::from([10, 0, 0, told]));
        Deed::Allocate { host: host.into(), tenant: "t".into(), told }
    }

    fn found(host: &str, ip: u8) -> Deed {
        Deed::Read(Some((IpAddr::from([10, 0, 0, ip]), host.into())))
    }

    fn holds(operations: &[Operation]) -> bool {
        matches!(search(operations), Found::Order)
    }

    #[test]
    fn what_is_concurrent_may_be_in_any_order() {
        let all = [
            operation(0, 10, allocate("a", 1)),
            operation(1, 9, Deed::Read(None)),
            operation(2, 8, found("a", 1)),
            operation(11, 12, Deed::Release),
            operation(13, 14, Deed::Read(None)),
        ];
        assert!(holds(&all));
    }

    #[test]
    fn stale_and_impossible_answers_have_no_order() {
        let stale = [operation(0, 1, allocate("a", 1)), operation(2, 3, Deed::Read(None))];
        assert!(!holds(&stale));
        let gone = [
            operation(0, 1, allocate("a", 1)),
            operation(2, 3, Deed::Release),
            operation(4, 5, found("a", 1)),
        ];
        assert!(!holds(&gone));
        let twice = [operation(0, 1, allocate("a", 1)), operation(2, 3, allocate("a", 2))];
        assert!(!holds(&twice));
        let other = Deed::InUse { host: "b".into(), tenant: "t".into() };
        assert!(holds(&[operation(0, 1, allocate("a", 1)), operation(2, 3, other.clone())]));
        assert!(!holds(&[operation(2, 3, other)]), "refused although nobody has it");
    }

    #[test]
    fn the_unknown_may_happen_later_or_never() {
        let maybe = Operation { optional: true, ..operation(0, Nanos::MAX, Deed::Release) };
        let begin = operation(0, 1, allocate("a", 1));
        for read in [Deed::Read(None), found("a", 1)] {
            assert!(holds(&[begin.clone(), maybe.clone(), operation(5, 6, read)]));
        }
        let later =
            [begin, maybe, operation(5, 6, found("a", 1)), operation(7, 8, Deed::Read(None))];
        assert!(holds(&later));
    }

    #[test]
    fn an_eviction_takes_what_is_on_the_host() {
        let evict = |host: &str| operation(2, 3, Deed::Evict(host.into()));
        let begin = operation(0, 1, allocate("a", 1));
        assert!(holds(&[begin.clone(), evict("a"), operation(4, 5, Deed::Read(None))]));
        assert!(!holds(&[begin, evict("b"), operation(4, 5, Deed::Read(None))]));
    }
}
