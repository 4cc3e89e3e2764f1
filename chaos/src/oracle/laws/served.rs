//! No client takes a replica from the others: while some clients abuse it and nothing else is broken, all others are
//! answered, and not much later than in calm.
//!
//! What is long is measured in the same run, so that a slow machine is not taken for a replica that is busy.

use std::collections::BTreeMap;

use super::super::{Case, Law, Verdict, abuses, is_abuse};
use crate::evidence::{Call, Evidence, Nanos, Outcome};

/// The law.
pub(in super::super) const LAW: Law = Law {
    name: "served",
    says: "clients that do not read or finish take nothing from the others: all are answered, and soon",
    check,
};

/// The 99th percentile of all abuses of a run is at most so many times that of calm …
const TIMES_MAX: u64 = 10;
/// … or this, whatever it was in calm.
const P99_FLOOR: Nanos = 2_000_000_000;
/// Nobody waits longer than this, or than so many times the 99th percentile of calm.
const GAP_FLOOR: Nanos = 10_000_000_000;
/// A percentile of fewer answers is not judged.
const ANSWERS_MIN: usize = 100;
/// After a fault it is not calm at once: there are elections, and replicas that catch up.
const RECOVERY: Nanos = 2_000_000_000;

/// A time in which some clients abused a replica, and nothing else was broken.
struct Window {
    from: Nanos,
    until: Nanos,
    /// What comes later is broken by another fault.
    end: Nanos,
}

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let Evidence { calls, faults, .. } = case.evidence;
    let calm = |call: &&Call| {
        faults.iter().all(|it| call.returned < it.from || call.invoked > it.until + RECOVERY)
    };
    let calm = p99(calls.iter().filter(calm)).unwrap_or_default();
    let windows = windows(case.evidence);
    let within = |call: &&Call| {
        let is =
            |it: &Window| (it.from..it.until).contains(&call.invoked) && call.returned <= it.end;
        windows.iter().any(is)
    };
    let (took, ms) = (p99(calls.iter().filter(within)), |nanos: Nanos| nanos / 1_000_000);
    if let Some(took) = took.filter(|took| *took > (calm * TIMES_MAX).max(P99_FLOOR)) {
        let (took, calm) = (ms(took), ms(calm));
        verdict.broken(format!("answers took {took} ms (p99) under abuse, and {calm} ms in calm"));
    }
    for window in &windows {
        for (client, gap) in gaps(case, window) {
            if gap > (calm * TIMES_MAX).max(GAP_FLOOR) {
                let (gap, at) = (ms(gap), ms(window.from));
                verdict.broken(format!(
                    "client {client} was not answered for {gap} ms in the abuse at {at} ms"
                ));
            }
        }
    }
}

/// The abuses that no other fault was near.
fn windows(evidence: &Evidence) -> Vec<Window> {
    let others = || evidence.faults.iter().filter(|it| !is_abuse(it));
    abuses(evidence)
        .filter(|(from, until)| !others().any(|it| it.from < *until && it.until + RECOVERY > *from))
        .map(|(from, until)| {
            let later = others().filter(|it| it.from >= until).map(|it| it.from);
            Window { from, until, end: later.min().unwrap_or(Nanos::MAX) }
        })
        .collect()
}

/// Done, or refused for a reason of its own.
fn answered(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Acked { .. } | Outcome::Refused { .. })
}

/// The 99th percentile of how long answers took, if there are enough of them.
fn p99<'a>(calls: impl Iterator<Item = &'a Call>) -> Option<Nanos> {
    let answered = calls.filter(|call| answered(call));
    let mut took: Vec<Nanos> = answered.map(|call| call.returned - call.invoked).collect();
    took.sort_unstable();
    (took.len() >= ANSWERS_MIN).then(|| took[(took.len() - 1) * 99 / 100])
}

/// The longest time that each client was without an answer, of those that begin in a window; what comes after its `end`
/// is not counted.
fn gaps(case: &Case<'_>, window: &Window) -> BTreeMap<usize, Nanos> {
    let Window { from, until, end } = *window;
    let mut longest = BTreeMap::new();
    let mut last: BTreeMap<usize, Nanos> = BTreeMap::new();
    let mut calls: Vec<&Call> = case.evidence.calls.iter().collect();
    calls.sort_unstable_by_key(|call| call.returned);
    for call in calls.into_iter().filter(|call| call.returned >= from) {
        // What it asked before the window it has waited for since the window began.
        let since = *last.entry(call.client).or_insert_with(|| call.invoked.max(from));
        if since >= until {
            continue;
        }
        let gap: &mut Nanos = longest.entry(call.client).or_default();
        *gap = (*gap).max(call.returned.min(end).saturating_sub(since));
        if answered(call) {
            last.insert(call.client, call.returned);
        }
    }
    longest
}
