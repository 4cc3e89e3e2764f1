//! Liveness: without faults, writes are acknowledged.
//!
//! Counts time without an acknowledged write *and* without any fault in force. An election takes some 300 ms;
//! the bound is far larger, so that a busy machine does not look like a dead cluster.

use super::super::{Case, Law, Verdict};
use crate::evidence::{Nanos, Outcome};

/// Longest time without an acknowledged write while there is no fault.
const BOUND: Nanos = 10_000_000_000;

pub(in super::super) const LAW: Law = Law {
    name: "liveness",
    says: "while no fault is in force, a write is acknowledged at least every ten seconds",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let acked = |call: &&crate::evidence::Call| {
        call.command().is_some() && matches!(call.outcome, Outcome::Acked { .. })
    };
    let mut times: Vec<Nanos> =
        case.evidence.calls.iter().filter(acked).map(|call| call.returned).collect();
    times.sort_unstable();
    for gap in times.windows(2) {
        let quiet = (gap[1] - gap[0]).saturating_sub(broken(case, gap[0], gap[1]));
        if quiet > BOUND {
            let (from, ms) = (gap[0] / 1_000_000, quiet / 1_000_000);
            verdict.broken(format!("{ms} ms after {from} ms without fault and without a write"));
        }
    }
}

/// How much of an interval some fault was in force. Faults may overlap.
fn broken(case: &Case<'_>, from: Nanos, to: Nanos) -> Nanos {
    let mut faults: Vec<(Nanos, Nanos)> =
        case.evidence.faults.iter().map(|fault| (fault.from, fault.until)).collect();
    faults.sort_unstable();
    let (mut total, mut last) = (0, from);
    for (begin, end) in faults {
        let (begin, end) = (begin.max(last), end.min(to));
        if begin < end {
            total += end - begin;
            last = end;
        }
    }
    total
}
