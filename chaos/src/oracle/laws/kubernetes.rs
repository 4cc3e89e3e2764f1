//! Objects of Kubernetes in the log.

use romana_statemachine::State;

use super::super::{Case, Law, Verdict};
use crate::kubernetes::differences;

pub(in super::super) const LAW: Law = Law {
    name: "kubernetes",
    says: "the log has what the API server has at the end, nothing else from there, and an operator's own as it was",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let Some(asked) = &case.evidence.kubernetes else { return };
    let mut state = State::new();
    for record in &case.witness.records {
        // The law `replay` tells of it.
        if state.follow(record).is_err() {
            return;
        }
    }
    for what in differences(&state, asked) {
        verdict.broken(what);
    }
}
