//! Records are linked: none is missing or modified, and time does not go back.

use romana_statemachine::{Digest, Index, Millis, Record, Revision};

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "chain",
    says: "revisions are dense, digests continue, time and index never go back",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let (mut last, mut digest) = (Revision(0), Digest::default());
    let mut before = (Millis(0), Index(0));
    for record in &case.witness.records {
        let Record { revision, index, at, .. } = record;
        if *revision != last.next() {
            verdict.broken(format!("revision {revision} comes after {last}"));
        }
        if !record.follows(&digest) {
            verdict.broken(format!("the digest of revision {revision} is wrong"));
        }
        if *at < before.0 || *index < before.1 {
            verdict.broken(format!("time or index goes back at revision {revision}"));
        }
        (last, digest, before) = (*revision, record.digest, (*at, *index));
    }
}
