//! Log time follows true time although one clock may be wrong: the judge's clock is correct.

use super::super::{Case, Law, Verdict};
use crate::evidence::{Nanos, Outcome};

pub(in super::super) const LAW: Law = Law {
    name: "log-time",
    says: "while a majority of the clocks is right, what happened between a call and its answer is stamped so",
    check,
};

/// Maximum time of a stamp before the call or after the answer, milliseconds. With a replica down, one
/// correct clock and a wrong one form a majority while they differ by less than twice ten seconds, and a
/// returning replica steps to the time they agree on.
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
