//! # The oracle
//!
//! Judges a finished run. Pure: evidence in, violations out, so that every law can be tested with a
//! constructed history that breaks it (`oracle/tests.rs`).
//!
//! The cluster's own history defines the order of operations: every answer contains a revision.
//! Therefore most of linearizability needs no search: it holds if the history is one legal sequence,
//! each answer is correct at its revision, and revisions respect real time. The law `linearizable` does
//! not rely on revisions, and searches.
//!
//! A law is a file in `oracle/laws/` and a line in [`LAWS`]. `chaos laws` prints them.
//!
//! Performance is not judged.

mod laws;
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use romana_statemachine::name::AddressName;
use romana_statemachine::{Digest, Revision};

use crate::evidence::{Evidence, Nanos, Testimony};
use crate::nemesis::Injected;
use crate::nemesis::abuse::ABUSE;
pub(crate) use laws::memory::costs;
use timeline::Timeline;

/// Limit of violations reported per law; further ones are counted.
const SHOWN_MAX: usize = 20;

/// A law.
#[derive(Debug)]
pub struct Law {
    /// Name in reports.
    pub name: &'static str,
    pub says: &'static str,
    check: fn(&Case<'_>, &mut Verdict),
}

/// All laws.
pub const LAWS: &[&Law] = &[
    &laws::chain::LAW,
    &laws::one_history::LAW,
    &laws::digest::LAW,
    &laws::address_once::LAW,
    &laws::blocks::LAW,
    &laws::reuse::LAW,
    &laws::acked::LAW,
    &laws::no_phantom::LAW,
    &laws::real_time::LAW,
    &laws::linearizable::LAW,
    &laws::exclusive::LAW,
    &laws::local_reads::LAW,
    &laws::live::LAW,
    &laws::feed::LAW,
    &laws::backup::LAW,
    &laws::replay::LAW,
    &laws::audit::LAW,
    &laws::who::LAW,
    &laws::liveness::LAW,
    &laws::log_time::LAW,
    &laws::memory::LAW,
    &laws::served::LAW,
    &laws::kubernetes::LAW,
];

/// A violation of a law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub law: &'static str,
    /// The observation that breaks it.
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
    law: &'static str,
    found: Vec<Violation>,
    hidden: usize,
}

impl Verdict {
    pub(crate) fn broken(&mut self, what: impl Into<String>) {
        let law = self.law;
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

/// The evidence under judgement.
pub(crate) struct Case<'a> {
    evidence: &'a Evidence,
    /// The longest history that a replica reported.
    witness: &'a Testimony,
    timeline: Timeline,
}

impl Case<'_> {
    /// The digest of the history at a revision other than 0.
    fn digest_at(&self, revision: Revision) -> Option<Digest> {
        let at = usize::try_from(revision.get()).ok()?.checked_sub(1)?;
        self.witness.records.get(at).map(|record| record.digest)
    }

    /// Compares a list of live addresses at a revision with the history.
    fn compare(
        &self,
        who: &str,
        listed: &BTreeMap<&AddressName, IpAddr>,
        at: Revision,
        verdict: &mut Verdict,
    ) {
        let right: BTreeMap<&AddressName, IpAddr> =
            self.timeline.live_at(at).map(|span| (&span.name, span.ip)).collect();
        for (name, ip) in right.iter().filter(|(name, ip)| listed.get(*name) != Some(*ip)) {
            verdict.broken(format!("{who} {:?} for {name}, which holds {ip}", listed.get(name)));
        }
        for (name, ip) in listed.iter().filter(|(name, _)| !right.contains_key(*name)) {
            verdict.broken(format!("{who} {ip} for {name}, which holds nothing"));
        }
    }
}

fn is_abuse(fault: &Injected) -> bool {
    fault.fault.kind().name == ABUSE.name
}

/// Times during which clients abused a replica.
fn abuses(evidence: &Evidence) -> impl Iterator<Item = (Nanos, Nanos)> {
    let abuses = evidence.faults.iter().filter(|fault| is_abuse(fault));
    abuses.map(|fault| (fault.from, fault.until))
}

/// Judges a run. Empty = all laws held.
#[must_use]
pub fn judge(evidence: &Evidence) -> Vec<Violation> {
    let mut verdict = Verdict::default();
    let Some(witness) = evidence.testimonies.iter().max_by_key(|said| said.records.len()) else {
        verdict.law = laws::one_history::LAW.name;
        verdict.broken("no replica told its history");
        return verdict.finish();
    };
    let timeline = Timeline::read(&witness.records);
    let case = Case { evidence, witness, timeline };
    for law in LAWS {
        verdict.law = law.name;
        (law.check)(&case, &mut verdict);
    }
    verdict.finish()
}
