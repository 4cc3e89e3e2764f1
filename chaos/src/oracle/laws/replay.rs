//! The events alone determine the state, and the state survives a snapshot.

use std::collections::BTreeMap;

use romana_statemachine::State;

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "replay",
    says: "the state folded from the events has the cluster's digest and addresses, and its snapshot is all of it",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut state = State::new();
    for record in &case.witness.records {
        if let Err(error) = state.follow(record) {
            verdict.broken(error.to_string());
            return;
        }
    }
    let folded: Vec<_> = state.ipam().addresses_after(None).collect();
    let listed: BTreeMap<_, _> = folded.iter().map(|held| (&held.name, held.ip)).collect();
    case.compare("the replay has", &listed, case.timeline.last, verdict);
    for wrong in state.validate().err().unwrap_or_default() {
        verdict.broken(format!("the replay: {wrong}"));
    }
    match State::from_snapshot(&state.snapshot()) {
        Ok(again) => {
            if let Some(word) = first_difference(&words(&again), &words(&state)) {
                verdict.broken(format!("the snapshot of the replay is another state: {word}"));
            }
        }
        Err(error) => verdict.broken(format!("the snapshot cannot be read: {error}")),
    }
}

/// The first difference.
fn first_difference(one: &[String], other: &[String]) -> Option<String> {
    let at = one.iter().zip(other).position(|(a, b)| a != b);
    let at = at.or_else(|| (one.len() != other.len()).then(|| one.len().min(other.len())))?;
    let around =
        |words: &[String]| words.iter().skip(at).take(6).cloned().collect::<Vec<_>>().join(" ");
    Some(format!("{:?}, and {:?}", around(one), around(other)))
}

/// All words of a state's debug form. Derived data may be arranged differently, so words are sorted, and
/// those that depend on the arrangement (of `Few`) are left out.
fn words(state: &State) -> Vec<String> {
    let shown = format!("{state:?}");
    let parts = shown.split(|c: char| !c.is_ascii_alphanumeric() && !".:/_-".contains(c));
    let mut words: Vec<String> =
        parts.filter(|word| !["", "One", "Many"].contains(word)).map(str::to_owned).collect();
    words.sort_unstable();
    words
}
