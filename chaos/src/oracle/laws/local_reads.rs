//! Local reads: possibly stale, but consistent with the history, and monotonic per replica.

use std::collections::HashMap;

use romana_statemachine::Revision;

use super::super::{Case, Law, Verdict};
use super::acked::told;
use crate::evidence::{Ask, Outcome};

pub(in super::super) const LAW: Law = Law {
    name: "local-reads",
    says: "what a client reads of one replica is the history at a revision, and revisions do not go back",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut calls: Vec<_> = case.evidence.calls.iter().collect();
    calls.sort_by_key(|call| call.invoked);
    let mut seen: HashMap<(usize, u64), Revision> = HashMap::new();
    for call in calls {
        let (Ask::Local(name, replica), Outcome::Acked { revision, held, .. }) =
            (&call.ask, &call.outcome)
        else {
            continue;
        };
        let before = seen.entry((call.client, *replica)).or_default();
        if revision < before {
            verdict.broken(format!("{}: at revision {revision}, after {before}", told(call)));
        }
        *before = *revision;
        let truth = case.timeline.held_at(name, *revision);
        let same = match (held, truth) {
            (None, None) => true,
            (Some(held), Some(span)) => held.ip == span.ip && held.host == span.host,
            _ => false,
        };
        if !same {
            let said = format!("{held:?} at revision {revision}, the history has {truth:?}");
            verdict.broken(format!("{}: {said}", told(call)));
        }
    }
}
