//! Audit queries during the run: the holder of an address agrees with the history at the revision of the
//! answer. (`audit` judges the whole past after the run.)

use super::super::{Case, Law, Verdict};
use super::acked::told;
use crate::evidence::{Ask, Outcome};

pub(in super::super) const LAW: Law = Law {
    name: "who",
    says: "the audit, asked under load, names the holder that the history has at that revision",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for call in &case.evidence.calls {
        let (Ask::Who(ip), Outcome::Acked { revision, held, .. }) = (&call.ask, &call.outcome)
        else {
            continue;
        };
        let truth = case.timeline.holder_at(*ip, *revision);
        let same = match (held, truth) {
            (None, None) => true,
            (Some(held), Some(span)) => {
                held.name == span.name && held.host == span.host && held.revision == span.from
            }
            _ => false,
        };
        if !same {
            let said = format!("{held:?} at revision {revision}, the history has {truth:?}");
            verdict.broken(format!("{}: {said}", told(call)));
        }
    }
}
