//! The replicas' lists of live addresses agree with the history.

use std::collections::BTreeMap;

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law =
    Law { name: "live", says: "what replicas list as live is what the history leaves", check };

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for said in &case.evidence.testimonies {
        let listed: BTreeMap<_, _> = said.live.iter().map(|held| (&held.name, held.ip)).collect();
        let who = format!("replica {} lists", said.replica);
        case.compare(&who, &listed, said.live_at, verdict);
    }
}
