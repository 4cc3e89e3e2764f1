//! The feed is ordered, without duplicates or gaps, and can be resumed anywhere.

use romana_statemachine::Revision;

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "feed",
    says: "followers saw every record once, in order, and folded the same digest",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for (at, followed) in case.evidence.followed.iter().enumerate() {
        for fault in &followed.faults {
            verdict.broken(format!("follower {at}: {fault}"));
        }
        let (got, last) = (Revision(followed.digests.len() as u64), case.timeline.last);
        if got < last {
            verdict.broken(format!("follower {at} ended at {got}, the history at {last}"));
        }
        let differs = (1..)
            .zip(&followed.digests)
            .zip(&case.witness.records)
            .find(|((_, digest), record)| **digest != record.digest);
        if let Some(((revision, _), _)) = differs {
            verdict.broken(format!("follower {at} folded another history from {revision} on"));
        }
    }
}
