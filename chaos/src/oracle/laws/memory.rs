//! Clients cannot exhaust a replica's memory: the cost of clients that do not read or do not finish is
//! bounded by the replica's budgets, and is released when they are gone.

use std::collections::BTreeMap;

use super::super::{Case, Law, Verdict, abuses};
use crate::evidence::{Evidence, Nanos, Resident};

pub(in super::super) const LAW: Law = Law {
    name: "memory",
    says: "clients that do not read or finish cost a replica a bounded amount of memory, which comes back",
    check,
};

/// Maximum total cost: the budgets of bodies (96 MB) and answers (64 MB), memory of a few exports and states,
/// and of the concurrent load. Bytes do not depend on the speed of the machine.
const GROWTH_BYTES_MAX: u64 = 250 << 20;
/// Maximum remainder afterwards: memory that the allocator keeps.
const LEFT_BYTES_MAX: u64 = 150 << 20;
/// The remainder is the minimum seen within this time.
const BACK_WITHIN: Nanos = 10_000_000_000;
/// A replica must be sampled at least this long for its remainder to be judged.
const WATCHED_MIN: Nanos = 3_000_000_000;

/// The cost of an abuse for a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) from: Nanos,
    pub(crate) replica: u64,
    /// Maximum increase, bytes.
    pub(crate) grown: u64,
    /// Increase that remained afterwards, bytes; `None`: not sampled for long enough.
    pub(crate) left: Option<u64>,
}

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for Cost { from, replica, grown, left } in costs(case.evidence) {
        let (ms, mb) = (from / 1_000_000, grown >> 20);
        if grown > GROWTH_BYTES_MAX {
            verdict.broken(format!("replica {replica} grew by {mb} MB in the abuse at {ms} ms"));
        }
        if let Some(left) = left.filter(|left| *left > LEFT_BYTES_MAX) {
            let mb = left >> 20;
            verdict.broken(format!("replica {replica} keeps {mb} MB of the abuse at {ms} ms"));
        }
    }
}

/// The cost of every abuse for every replica that did not restart during it.
pub(crate) fn costs(evidence: &Evidence) -> Vec<Cost> {
    let mut processes: BTreeMap<(u64, u32), Vec<&Resident>> = BTreeMap::new();
    for seen in &evidence.memory {
        processes.entry((seen.replica, seen.process)).or_default().push(seen);
    }
    let each = |(from, until)| {
        let cost = move |((replica, _), seen): (&(u64, u32), &Vec<&Resident>)| {
            cost(*replica, seen, from, until)
        };
        processes.iter().filter_map(cost).collect::<Vec<_>>()
    };
    abuses(evidence).flat_map(each).collect()
}

fn cost(replica: u64, seen: &[&Resident], from: Nanos, until: Nanos) -> Option<Cost> {
    let before = seen.iter().rfind(|seen| seen.at <= from)?.bytes;
    let within = |from: Nanos, until: Nanos| {
        seen.iter().filter(move |seen| (from..=until).contains(&seen.at))
    };
    let most = within(from, until).map(|seen| seen.bytes).max().unwrap_or_default();
    let after = || within(until, until + BACK_WITHIN);
    let watched = after().next_back().is_some_and(|last| last.at >= until + WATCHED_MIN);
    let least = after().map(|seen| seen.bytes).min().filter(|_| watched);
    let left = least.map(|least| least.saturating_sub(before));
    Some(Cost { from, replica, grown: most.saturating_sub(before), left })
}
