//! Log time is the true time, though one clock may be wrong: the judge's clock is right.

use super::super::{Case, Law, Verdict};
use crate::evidence::{Nanos, Outcome};

/// The law.
pub(in super::super) const LAW: Law = Law {
    name: "log-time",
    says: "while a majority of the clocks is right, what happened between a call and its answer is stamped so",
    check,
};

/// A stamp is not further before the call, or after the answer, milliseconds. With a replica down, one right clock and
/// a wrong one are a majority while they are within twice ten seconds; and whoever was down steps to what they
/// agree on.
const OFF_MAX: u64 = 12_000;

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let Some(began) = case.evidence.began else { return };
    let time = |nanos: Nanos| began.0.saturating_add(nanos / 1_000_000);
    for call in &case.evidence.calls {
        let Outcome::Acked { revision, changed: Some(true), .. } = &call.outcome else { continue };
        let at = usize::try_from(revision.get()).ok().and_then(|at| at.checked_sub(1));
        let Some(record) = at.and_then(|at| case.witness.records.get(at)) else { continue };
        let (from, to) = (time(call.invoked), time(call.returned));
        let at = record.at.0;
        if at > to.saturating_add(OFF_MAX) || at.saturating_add(OFF_MAX) < from {
            verdict.broken(format!(
                "revision {revision} is stamped {at}, and was asked for at {from} and answered at {to}"
            ));
        }
    }
}
