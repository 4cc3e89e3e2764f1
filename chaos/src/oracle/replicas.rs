//! Replicas, followers and replay: all tell the same story.

use std::collections::BTreeMap;
use std::net::IpAddr;

use romana_statemachine::State;
use romana_statemachine::name::AddressName;

use super::Verdict;
use super::timeline::Timeline;
use crate::history::{Backed, Evidence, Testimony};

/// Checks everything the replicas said against the witness, the longest history.
pub(super) fn check(
    evidence: &Evidence,
    witness: &Testimony,
    timeline: &Timeline,
    verdict: &mut Verdict,
) {
    for said in &evidence.testimonies {
        same_history(said, witness, verdict);
        same_live(said, timeline, verdict);
    }
    let digest_at = |revision: u64| {
        let at = usize::try_from(revision).ok()?.checked_sub(1)?;
        witness.records.get(at).map(|record| record.digest)
    };
    for sample in evidence.samples.iter().filter(|sample| sample.revision > 0) {
        if digest_at(sample.revision) != Some(sample.digest) {
            let what = format!("{sample:?}, which is not in the history");
            verdict.broken("one-history", what);
        }
    }
    for backed in &evidence.backups {
        let Backed { replica, revision, digest, live, fault } = backed;
        let who = format!("the backup of replica {replica} at revision {revision}");
        if let Some(fault) = fault {
            verdict.broken("backup", format!("{who}: {fault}"));
            continue;
        }
        if *revision > 0 && digest_at(*revision) != Some(*digest) {
            verdict.broken("backup", format!("{who} is not of this history"));
        }
        let listed = live.iter().map(|(name, ip)| (name, *ip)).collect();
        let right = timeline.live_at(*revision).map(|span| (&span.name, span.ip)).collect();
        compare(&format!("{who} has"), &listed, &right, "backup", verdict);
    }
    for (at, followed) in evidence.followed.iter().enumerate() {
        for fault in &followed.faults {
            verdict.broken("feed", format!("follower {at}: {fault}"));
        }
        let (got, last) = (followed.digests.len() as u64, timeline.last);
        if got < last {
            verdict.broken("feed", format!("follower {at} ended at {got}, the history at {last}"));
        }
        let differs = (1..)
            .zip(&followed.digests)
            .zip(&witness.records)
            .find(|((_, digest), record)| **digest != record.digest);
        if let Some(((revision, _), _)) = differs {
            let what = format!("follower {at} folded another history from revision {revision} on");
            verdict.broken("feed", what);
        }
    }
    replay(witness, timeline, verdict);
}

fn same_history(said: &Testimony, witness: &Testimony, verdict: &mut Verdict) {
    let (a, b) = (said.replica, witness.replica);
    if said.records.len() != witness.records.len() {
        let (have, want) = (said.records.len(), witness.records.len());
        verdict.broken("one-history", format!("replica {a} has {have} records, {b} has {want}"));
    }
    let differs = said.records.iter().zip(&witness.records).find(|(one, other)| one != other);
    if let Some((one, other)) = differs {
        let what = format!("replica {a} has {one:?} where replica {b} has {other:?}");
        verdict.broken("one-history", what);
    }
}

fn same_live(said: &Testimony, timeline: &Timeline, verdict: &mut Verdict) {
    let listed: BTreeMap<&AddressName, IpAddr> =
        said.live.iter().map(|held| (&held.name, held.ip)).collect();
    let right: BTreeMap<&AddressName, IpAddr> =
        timeline.live_at(said.live_at).map(|span| (&span.name, span.ip)).collect();
    compare(&format!("replica {} lists", said.replica), &listed, &right, "live", verdict);
}

fn compare(
    who: &str,
    listed: &BTreeMap<&AddressName, IpAddr>,
    right: &BTreeMap<&AddressName, IpAddr>,
    law: &'static str,
    verdict: &mut Verdict,
) {
    for (name, ip) in right.iter().filter(|(name, ip)| listed.get(*name) != Some(*ip)) {
        verdict.broken(law, format!("{who} {:?} for {name}, which holds {ip}", listed.get(name)));
    }
    for (name, ip) in listed.iter().filter(|(name, _)| !right.contains_key(*name)) {
        verdict.broken(law, format!("{who} {ip} for {name}, which holds nothing"));
    }
}

/// Folds the events with the state machine itself.
fn replay(witness: &Testimony, timeline: &Timeline, verdict: &mut Verdict) {
    let mut state = State::new();
    for record in &witness.records {
        if let Err(error) = state.follow(record) {
            verdict.broken("replay", error.to_string());
            return;
        }
    }
    let folded: Vec<_> = state.ipam().addresses_after(None).collect();
    let listed: BTreeMap<&AddressName, IpAddr> =
        folded.iter().map(|allocation| (&allocation.name, allocation.ip)).collect();
    let right: BTreeMap<&AddressName, IpAddr> =
        timeline.live_at(timeline.last).map(|span| (&span.name, span.ip)).collect();
    compare("the replay has", &listed, &right, "replay", verdict);
    let bytes = state.snapshot();
    match State::from_snapshot(&bytes) {
        Ok(again) if again.digest() == state.digest() && again.snapshot() == bytes => {}
        Ok(_) => verdict.broken("replay", "the snapshot of the replay is another state"),
        Err(error) => verdict.broken("replay", format!("the snapshot cannot be read: {error}")),
    }
}
