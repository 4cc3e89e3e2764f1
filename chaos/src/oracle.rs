//! # The oracle
//!
//! Judges a finished run. Pure: evidence in, violations out, so that every law has a hand-made
//! history that breaks it (`oracle/tests.rs`).
//!
//! The cluster's own history is the witness of the order in which things happened: every answer
//! carries a revision. So linearizability needs no search. It holds if the history is one legal
//! sequence, each answer is right at its revision, and revisions respect real time.
//!
//! | law | what is checked |
//! |---|---|
//! | `chain` | revisions are dense, digests continue, time and index never go back |
//! | `one-history` | all replicas tell the same history, and told it while they ran |
//! | `address-once` | no address has two names, and no name two addresses, at any revision |
//! | `blocks` | a block lies in its group, overlaps no other, and holds its addresses |
//! | `acked` | an acknowledged answer agrees with the history at its revision |
//! | `no-phantom` | nothing is in the history that nobody asked for, or that was refused |
//! | `real-time` | what was answered before a call began is before it in the history |
//! | `live` | what replicas list as live is what the history leaves |
//! | `feed` | followers saw every record once and folded the same digest |
//! | `backup` | a backup that came whole checks out, and is the history and the addresses at its revision |
//! | `replay` | the state folded from the events has the cluster's digest and addresses |
//! | `audit` | who held what when, exports replayed offline and `verify` tell the recorded history |
//!
//! Left out: whether a refusal was justified (the state machine's own tests know), performance.

mod answers;
mod audit;
mod order;
mod replicas;
mod timeline;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::Evidence;
use timeline::Timeline;

/// Violations of one law that are reported; the rest are counted.
const SHOWN_MAX: usize = 20;

/// A broken law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which law.
    pub law: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.what)
    }
}

/// Collects violations, a bounded number per law.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    found: Vec<Violation>,
    hidden: usize,
}

impl Verdict {
    pub(crate) fn broken(&mut self, law: &'static str, what: impl Into<String>) {
        if self.found.iter().filter(|violation| violation.law == law).count() < SHOWN_MAX {
            self.found.push(Violation { law, what: what.into() });
        } else {
            self.hidden += 1;
        }
    }

    fn finish(mut self) -> Vec<Violation> {
        if self.hidden > 0 {
            let what = format!("{} further violations are not shown", self.hidden);
            self.found.push(Violation { law: "more", what });
        }
        self.found
    }
}

/// Judges a run. Empty = all laws held.
#[must_use]
pub fn judge(evidence: &Evidence) -> Vec<Violation> {
    let mut verdict = Verdict::default();
    let Some(witness) = evidence.testimonies.iter().max_by_key(|said| said.records.len()) else {
        verdict.broken("one-history", "no replica told its history");
        return verdict.finish();
    };
    let timeline = Timeline::read(&witness.records, &mut verdict);
    replicas::check(evidence, witness, &timeline, &mut verdict);
    answers::check(&evidence.calls, &timeline, &mut verdict);
    order::check(&evidence.calls, &timeline, &mut verdict);
    audit::check(evidence, witness, &mut verdict);
    verdict.finish()
}
