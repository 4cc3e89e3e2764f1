//! The audit's answers about the past, compared with the recorded history.

use std::collections::BTreeMap;
use std::net::IpAddr;

use romana_client::audit::{Moment, Tenure};
use romana_statemachine::{Event, Record, Revision, State};

use super::super::{Case, Law, Verdict};
use crate::evidence::{Audited, Exported, Testimony};

pub(in super::super) const LAW: Law = Law {
    name: "audit",
    says: "who held what when, exports replayed offline and `verify` tell the recorded history",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let Case { evidence, witness, .. } = case;
    if evidence.audited.is_empty() {
        return;
    }
    let held = tenures(&witness.records);
    let end = fold(&witness.records);
    for said in &evidence.audited {
        who(said, &held, verdict);
        export(said, end.as_ref(), verdict);
        verify(said, witness, verdict);
    }
}

/// Tenures of addresses, computed from the history independently of the replicas' index.
pub(in super::super) fn tenures(records: &[Record]) -> BTreeMap<IpAddr, Vec<Tenure>> {
    let mut held: BTreeMap<IpAddr, Vec<Tenure>> = BTreeMap::new();
    for record in records {
        let moment = Moment { revision: record.revision, at: record.at };
        match &record.event {
            Event::AddressAllocated(event) => held.entry(event.ip).or_default().push(Tenure {
                ip: event.ip,
                name: event.name.clone(),
                host: event.host.clone(),
                tenant: event.tenant.clone(),
                segment: event.segment.clone(),
                actor: Some(record.actor.clone()),
                from: Some(moment),
                to: None,
                reason: None,
                late: None,
            }),
            Event::AddressReleased(event) => {
                if let Some(last) = held.get_mut(&event.ip).and_then(|tenures| tenures.last_mut()) {
                    last.to = Some(moment);
                    last.reason = Some(event.reason);
                }
            }
            _ => {}
        }
    }
    held
}

/// The result of exporting the whole history; `None` if the history is broken, which other laws report.
pub(in super::super) fn fold(records: &[Record]) -> Option<Exported> {
    let mut state = State::new();
    records.iter().try_for_each(|record| state.follow(record)).ok()?;
    let (revision, digest) = (state.revision(), state.digest());
    Some(Exported { first: Revision(1), revision, digest, state_digest: state.state_digest() })
}

fn who(said: &Audited, held: &BTreeMap<IpAddr, Vec<Tenure>>, verdict: &mut Verdict) {
    for (ip, tenures) in &said.held {
        let right = held.get(ip).map(Vec::as_slice).unwrap_or_default();
        if tenures != right {
            let (id, differs) = (said.replica, tenures.iter().zip(right).find(|(a, b)| a != b));
            let what = match differs {
                Some((said, right)) => format!("{said:?}, and the history has {right:?}"),
                None => format!("{} holders, the history has {}", tenures.len(), right.len()),
            };
            verdict.broken(format!("replica {id} says of {ip}: {what}"));
        }
    }
}

fn export(said: &Audited, end: Option<&Exported>, verdict: &mut Verdict) {
    let id = said.replica;
    let Some(exported) = &said.exported else { return };
    match (exported, end) {
        (Err(why), _) => verdict.broken(format!("the export of replica {id}: {why}")),
        (Ok(exported), Some(end)) if exported != end => {
            let what = format!("replica {id} exports {exported:?}, the history leads to {end:?}");
            verdict.broken(what);
        }
        _ => {}
    }
}

fn verify(said: &Audited, witness: &Testimony, verdict: &mut Verdict) {
    let (id, Some(verified)) = (said.replica, &said.verified) else { return };
    if !verified.agreed {
        verdict.broken(format!("asked of replica {id}: {verified:?}"));
    }
    for word in &verified.replicas {
        let Some(proof) = word.proof.as_ref().filter(|_| word.ok) else { continue };
        let at =
            usize::try_from(proof.revision.get()).ok().and_then(|revision| revision.checked_sub(1));
        // Revisions after the recorded history cannot be judged.
        let Some(record) = at.and_then(|at| witness.records.get(at)) else { continue };
        if proof.digest != record.digest {
            let what = format!("asked of replica {id}: {word:?}, the history has another digest");
            verdict.broken(what);
        }
    }
}
