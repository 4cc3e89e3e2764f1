//! Compares the replicas' digests: at equal revisions they must be equal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use romana_client::Server;
use romana_client::model::DigestAt;
use romana_statemachine::{Revision, plural};
use tokio::time::sleep;

use super::{Finding, bad, good, warning};
use crate::context::Context;

/// Rounds of requests for digests: on a busy cluster it may take several until two replicas are at the same revision.
const ROUNDS_MAX: usize = 40;
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(25);

/// The digests that replicas reported, by revision.
#[derive(Debug, Default)]
pub(super) struct Digests {
    said: BTreeMap<Revision, Vec<(String, DigestAt)>>,
    silent: BTreeMap<String, String>,
    asked: usize,
}

impl Digests {
    /// Asks all replicas until those that respond were seen at one common revision.
    pub(super) async fn gather(ctx: &Context, servers: &[Server]) -> Self {
        let mut digests = Self { asked: servers.len(), ..Self::default() };
        for _ in 0..ROUNDS_MAX {
            digests.silent.clear();
            let asked = servers.iter().map(|server| ctx.client.digest_of(server));
            let answers = futures_util::future::join_all(asked).await;
            for (server, answer) in servers.iter().zip(answers) {
                match answer {
                    Ok(digest) => digests.add(server.to_string(), digest),
                    Err(error) => _ = digests.silent.insert(server.to_string(), error.to_string()),
                }
            }
            if digests.compared() + digests.silent.len() >= digests.asked {
                break;
            }
            sleep(PAUSE).await;
        }
        digests
    }

    fn add(&mut self, server: String, digest: DigestAt) {
        let at = self.said.entry(digest.revision).or_default();
        if !at.iter().any(|(other, _)| *other == server) {
            at.push((server, digest));
        }
    }

    /// Number of replicas in the largest group at one revision.
    fn compared(&self) -> usize {
        self.said.values().map(Vec::len).max().unwrap_or(0)
    }

    /// Number of replicas that responded.
    fn answered(&self) -> usize {
        let said = self.said.values().flatten().map(|(server, _)| server);
        said.collect::<BTreeSet<_>>().len()
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (server, why) in &self.silent {
            let what = format!("{server} does not answer: {why}");
            findings.push(bad("replica", what).remedy("start it, or: romana cluster remove ID"));
        }
        let mut differ = false;
        for (revision, said) in &self.said {
            let Some((first, digest)) = said.first() else { continue };
            for (other, _) in said.iter().filter(|(_, other)| other.digest != digest.digest) {
                differ = true;
                let what = format!(
                    "at revision {revision}, {first} and {other} differ: replicas have forked"
                );
                let remedy = "romana audit verify says which one; then: romana cluster replace ID";
                findings.push(bad("digest", what).remedy(remedy));
            }
        }
        let revision = self.said.iter().rev().find(|(_, said)| said.len() == self.compared());
        match revision {
            Some((revision, said)) if !differ && said.len() >= 2 => {
                let what =
                    format!("{} at revision {revision} agree", plural(said.len(), "replica"));
                findings.push(good("digest", what));
            }
            Some(_) if !differ && self.asked > 1 => {
                let what = match self.answered() {
                    0 | 1 => "fewer than two replicas say theirs: nothing to compare",
                    _ => "never two replicas at one revision: the cluster is busy, try again",
                };
                findings.push(warning("digest", what));
            }
            _ => {}
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use romana_statemachine::Digest;

    use super::*;
    use crate::doctor::tests::tones;
    use crate::table::Tone;

    fn digests(said: &[(&str, u64, u8)]) -> Digests {
        let mut digests = Digests { asked: 3, ..Digests::default() };
        for (server, revision, digest) in said {
            let at = DigestAt { revision: Revision(*revision), digest: Digest([*digest; 32]) };
            digests.add((*server).into(), at);
        }
        digests
    }

    #[test]
    fn a_fork_is_found_and_a_busy_cluster_is_none() {
        let agree = digests(&[("a", 5, 1), ("b", 5, 1), ("c", 5, 1)]);
        assert_eq!(tones(&agree.findings()), [Tone::Good]);
        let fork = digests(&[("a", 5, 1), ("b", 5, 2), ("c", 6, 1)]);
        assert_eq!(tones(&fork.findings()), [Tone::Bad]);
        let busy = digests(&[("a", 5, 1), ("b", 6, 2), ("c", 7, 1)]);
        assert_eq!(tones(&busy.findings()), [Tone::Warning]);
        assert!(busy.findings()[0].what.contains("busy"));
        // The other replicas are down: reported separately.
        let alone = digests(&[("a", 5, 1), ("a", 6, 1)]);
        assert!(alone.findings()[0].what.contains("nothing to compare"));
    }
}
