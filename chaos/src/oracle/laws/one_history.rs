//! Law 2: all replicas have the same history, at the end and during the run.

use crate::evidence::Testimony;

use romana_statemachine::plural;
use serde_json::Value;

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "one-history",
    says: "all replicas tell the same history, told it while they ran, and show the same state",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for said in &case.evidence.testimonies {
        same(said, case.witness, verdict);
    }
    for sample in case.evidence.samples.iter().filter(|sample| sample.revision > 0) {
        if case.digest_at(sample.revision) != Some(sample.digest) {
            verdict.broken(format!("{sample:?}, which is not in the history"));
        }
    }
}

fn same(said: &Testimony, witness: &Testimony, verdict: &mut Verdict) {
    let (a, b) = (said.replica, witness.replica);
    if said.records.len() != witness.records.len() {
        let (have, want) = (said.records.len(), witness.records.len());
        verdict.broken(format!("replica {a} has {}, {b} has {want}", plural(have, "record")));
    }
    let differs = said.records.iter().zip(&witness.records).find(|(one, other)| one != other);
    if let Some((one, other)) = differs {
        verdict.broken(format!("replica {a} has {one:?} where replica {b} has {other:?}"));
    }
    // Snapshots of different revisions cannot be compared; entries without events only advance the time.
    if said.snapshot["revision"] != witness.snapshot["revision"] {
        return;
    }
    let parts = said.snapshot.as_object().into_iter().flatten();
    let differs = |(key, value): &(&String, &Value)| {
        *key != "at" && witness.snapshot.get(*key) != Some(*value)
    };
    let parts: Vec<&String> = parts.filter(differs).map(|(key, _)| key).collect();
    if !parts.is_empty() {
        verdict.broken(format!("replicas {a} and {b} show different states: {parts:?}"));
    }
}
