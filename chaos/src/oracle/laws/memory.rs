//! No client takes a replica's memory: what clients cost that do not read or do not finish is bounded by the
//! replica's budgets, and comes back when they are gone.

use std::collections::BTreeMap;

use super::super::{Case, Law, Verdict, abuses};
use crate::evidence::{Evidence, Nanos, Resident};

/// The law.
pub(in super::super) const LAW: Law = Law {
    name: "memory",
    says: "clients that do not read or finish cost a replica a bounded amount of memory, which comes back",
    check,
};

/// What they may cost together: the budgets of bodies (96 MB) and answers (64 MB), what a few exports and states hold,
/// and what the load takes meanwhile. Bytes do not depend on how fast a machine is.
const GROWTH_BYTES_MAX: u64 = 250 << 20;
/// What may be left when they are gone: what an allocator keeps for the next time.
const LEFT_BYTES_MAX: u64 = 150 << 20;
/// The least that is seen within this time is what is left.
const BACK_WITHIN: Nanos = 10_000_000_000;
/// One that was not watched for so long says nothing of what came back.
const WATCHED_MIN: Nanos = 3_000_000_000;

/// What an abuse cost a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// When it began.
    pub(crate) from: Nanos,
    pub(crate) replica: u64,
    /// Bytes more than before, at most.
    pub(crate) grown: u64,
    /// Bytes more than before, when it was over; `None`: that was not watched for long enough.
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

/// What every abuse cost every replica that lived through it.
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
