//! Abusive clients cannot deny service to others: while clients abuse a replica and there is no other fault,
//! all other calls are answered, with latency not much above that without abuse.
//!
//! Limits are relative to the same run, so that a slow machine does not look like a busy replica.

use std::collections::BTreeMap;

use super::super::{Case, Law, Verdict, abuses, is_abuse};
use crate::evidence::{Call, Evidence, Nanos, Outcome};

pub(in super::super) const LAW: Law = Law {
    name: "served",
    says: "clients that do not read or finish take nothing from the others: all are answered, and soon",
    check,
};

/// Limit of the 99th percentile during all abuses of a run, as a multiple of that without abuse …
const TIMES_MAX: u64 = 10;
/// … or this, if larger.
const P99_FLOOR: Nanos = 2_000_000_000;
/// Limit of a client's wait, unless the multiple of the 99th percentile without abuse is larger.
const GAP_FLOOR: Nanos = 10_000_000_000;
/// Minimum number of answers for a percentile to be judged.
const ANSWERS_MIN: usize = 100;
/// Time after a fault for elections and catching up.
const RECOVERY: Nanos = 2_000_000_000;

/// A time in which clients abused a replica, without other faults.
struct Window {
    from: Nanos,
    until: Nanos,
    /// Later times are affected by another fault.
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

/// The abuses without another fault close in time.
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

/// Succeeded, or refused with a definite reason.
fn answered(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Acked { .. } | Outcome::Refused { .. })
}

/// The 99th percentile of latency, if there are enough answers.
fn p99<'a>(calls: impl Iterator<Item = &'a Call>) -> Option<Nanos> {
    let answered = calls.filter(|call| answered(call));
    let mut took: Vec<Nanos> = answered.map(|call| call.returned - call.invoked).collect();
    took.sort_unstable();
    (took.len() >= ANSWERS_MIN).then(|| took[(took.len() - 1) * 99 / 100])
}

/// The longest wait of each client for an answer that begins in a window; waits end at the window's `end`.
fn gaps(case: &Case<'_>, window: &Window) -> BTreeMap<usize, Nanos> {
    let Window { from, until, end } = *window;
    let mut longest = BTreeMap::new();
    let mut last: BTreeMap<usize, Nanos> = BTreeMap::new();
    let mut calls: Vec<&Call> = case.evidence.calls.iter().collect();
    calls.sort_unstable_by_key(|call| call.returned);
    for call in calls.into_iter().filter(|call| call.returned >= from) {
        // A call from before the window counts as waiting since the window began.
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
