//! Backups taken under load.

use super::super::{Case, Law, Verdict};
use crate::evidence::Backed;

pub(in super::super) const LAW: Law = Law {
    name: "backup",
    says: "a backup that came whole checks out, and is the history and the addresses at its revision",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for backed in &case.evidence.backups {
        let Backed { replica, revision, digest, live, fault } = backed;
        let who = format!("the backup of replica {replica} at revision {revision}");
        if let Some(fault) = fault {
            verdict.broken(format!("{who}: {fault}"));
            continue;
        }
        if *revision > 0 && case.digest_at(*revision) != Some(*digest) {
            verdict.broken(format!("{who} is not of this history"));
        }
        let listed = live.iter().map(|(name, ip)| (name, *ip)).collect();
        case.compare(&format!("{who} has"), &listed, *revision, verdict);
    }
}
