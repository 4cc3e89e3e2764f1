//! The laws on the audit's answers.

use romana_client::audit::{Proof, Verification, Verified};
use romana_statemachine::Revision;
use romana_statemachine::event::ReleaseReason;

use super::super::laws::audit::{fold, tenures};
use super::*;
use crate::evidence::Audited;

/// A run in which an address has several holders, and correct answers about it.
fn told() -> Evidence {
    let mut truth = good();
    truth.release("a");
    truth.allocate("e");
    let mut evidence = truth.evidence();
    let end = fold(&truth.records).expect("a true history");
    let word = |id| Verified {
        id,
        ok: true,
        proof: Some(Proof {
            oldest: Revision(1),
            revision: end.revision,
            digest: end.digest,
            state_digest: end.state_digest,
            checkpoints: 0,
            took_ms: 1,
        }),
        error: None,
    };
    let verified = Verification {
        agreed: true,
        differences: Vec::new(),
        replicas: (1..=3).map(word).collect(),
    };
    let said = |replica| Audited {
        replica,
        held: tenures(&truth.records),
        exported: Some(Ok(end)),
        verified: Some(verified.clone()),
    };
    evidence.audited = (1..=3).map(said).collect();
    evidence
}

#[test]
fn the_past_is_what_the_history_says() {
    let evidence = told();
    assert_eq!(judge(&evidence), []);
    let held = &evidence.audited[0].held;
    assert!(held.values().any(|tenures| tenures[0].to.is_some()));
    assert!(held.values().any(|tenures| tenures[0].to.is_none()));

    // Any difference in any tenure is detected.
    let changes: [fn(&mut Vec<romana_client::audit::Tenure>); 9] = [
        Vec::clear,
        |tenures| tenures[0].name = "somebody".into(),
        |tenures| tenures[0].host = "elsewhere".into(),
        |tenures| tenures[0].tenant = "other".into(),
        |tenures| tenures[0].actor = Some("nobody".into()),
        |tenures| tenures[0].from = None,
        |tenures| tenures[0].to = tenures[0].from,
        |tenures| tenures[0].reason = Some(ReleaseReason::Evicted),
        |tenures| tenures.push(tenures[0].clone()),
    ];
    for (number, change) in changes.iter().enumerate() {
        for ip in evidence.audited[1].held.keys() {
            let mut lied = evidence.clone();
            change(lied.audited[1].held.get_mut(ip).expect("it was held"));
            assert_eq!(laws(&judge(&lied)), ["audit"], "change {number} of {ip}");
        }
    }
    let mut lied = evidence.clone();
    let never = "10.99.99.99".parse().expect("an address");
    lied.audited[2].held.insert(never, evidence.audited[0].held.values().next().unwrap().clone());
    breaks("audit", &lied);
}

fn export_of(said: &mut Audited) -> &mut crate::evidence::Exported {
    said.exported.as_mut().and_then(|it| it.as_mut().ok()).expect("right before")
}

fn proof_of(evidence: &mut Evidence) -> &mut Proof {
    verified_of(evidence).replicas[0].proof.as_mut().unwrap()
}

fn verified_of(evidence: &mut Evidence) -> &mut Verification {
    evidence.audited[1].verified.as_mut().expect("it was asked")
}

#[test]
fn exports_lead_to_where_the_history_leads() {
    let evidence = told();
    let other = Digest::of(b"another");
    let changes: [fn(&mut Audited, Digest); 5] = [
        |said, _| said.exported = Some(Err("line 7: the file was cut".into())),
        |said, other| export_of(said).digest = other,
        |said, other| export_of(said).state_digest = other,
        |said, _| {
            let export = export_of(said);
            export.revision = export.revision.minus(1);
        },
        |said, _| export_of(said).first = Revision(2),
    ];
    for change in changes {
        let mut lied = evidence.clone();
        change(&mut lied.audited[0], other);
        assert_eq!(laws(&judge(&lied)), ["audit"]);
    }
}

#[test]
fn all_say_that_all_is_whole() {
    let evidence = told();
    let mut lied = evidence.clone();
    verified_of(&mut lied).agreed = false;
    assert_eq!(laws(&judge(&lied)), ["audit"]);
    let mut lied = evidence.clone();
    proof_of(&mut lied).digest = Digest::of(b"another");
    assert_eq!(laws(&judge(&lied)), ["audit"]);
    // Later revisions cannot be judged.
    let mut later = evidence;
    proof_of(&mut later).revision = proof_of(&mut later).revision.plus(1000);
    assert_eq!(judge(&later), []);
}
