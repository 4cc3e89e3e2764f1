//! Polls the status of the other replicas, and compares digests with theirs.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use romana_statemachine::{Digest, Revision, State, version};
use romana_storage::platform::blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::raft::fault::Fault;
use crate::raft::known::view::View;
use crate::raft::peer::message::{PeerRequest, PeerResponse, PeerStatus};
use crate::raft::peer::network::PeerPool;
use crate::raft::remedy::reseed;
use crate::raft::store::log::LogStore;
use crate::raft::store::machine::Machine;

/// How often the other replicas are polled.
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_TIMEOUT: Duration = Duration::from_millis(400);
/// Digests are compared once per this many polls.
const COMPARE_EACH: u32 = 10;
/// A replica that has not answered for this long is not healthy.
const HEALTHY_FOR: Duration = Duration::from_millis(1500);
const RECORD_BYTES_MAX: usize = 16 << 20;

/// The last status of a replica, and whether it is recent.
pub(in crate::raft) type PeerReport = (PeerStatus, bool);

/// The latest status of each replica. Clones share them.
#[derive(Clone, Default)]
pub(in crate::raft) struct Peers(Arc<Mutex<BTreeMap<u64, (PeerStatus, Instant)>>>);

impl Peers {
    /// The last status of a replica.
    pub(in crate::raft) fn get(&self, id: u64) -> Option<PeerReport> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(&id).map(|(status, at)| (status.clone(), at.elapsed() < HEALTHY_FOR))
    }

    fn set(&self, id: u64, status: PeerStatus) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.insert(id, (status, Instant::now()));
    }
}

/// The digest of the history at a revision, if it is kept. Blocks.
pub(in crate::raft) fn digest_at(machine: &Machine, revision: Revision) -> Option<Digest> {
    let (last, digest) = machine.history().last();
    if revision == last {
        return Some(digest);
    }
    let read = machine.history().read(revision, 1, RECORD_BYTES_MAX).ok()?;
    read.first().filter(|record| record.revision == revision).map(|record| record.digest)
}

/// Result of comparing digests at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// All answers have the same digest.
    Agreed,
    /// Some differ, but a majority of the cluster has this replica's digest, or no digest has a majority.
    Disputed,
    /// A majority of the cluster agrees on another digest.
    Outvoted,
}

/// Judges this replica's digest by the digests of others, in a cluster of `voters`.
fn judge(own: Digest, others: &[Digest], voters: usize) -> Verdict {
    if others.iter().all(|digest| *digest == own) {
        return Verdict::Agreed;
    }
    let outvoted = others.iter().any(|candidate| {
        let votes = others.iter().filter(|digest| *digest == candidate).count();
        *candidate != own && votes * 2 > voters
    });
    if outvoted { Verdict::Outvoted } else { Verdict::Disputed }
}

/// Polls the other replicas until `stop`.
pub(in crate::raft) struct Poll {
    pub(in crate::raft) id: u64,
    pub(in crate::raft) machine: Machine,
    pub(in crate::raft) links: PeerPool,
    pub(in crate::raft) view: View,
    pub(in crate::raft) peers: Peers,
    pub(in crate::raft) fault: Fault,
    pub(in crate::raft) log: LogStore,
}

impl Poll {
    pub(in crate::raft) async fn run(self, stop: CancellationToken) {
        let mut clock = interval(ASK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0u32.. {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            let answers = self.ask_all(|_| PeerRequest::Status).await;
            let statuses = answers.into_iter().filter_map(|(id, reply)| match reply {
                PeerResponse::Status(status) => self.plausible(id, &status).then_some((id, status)),
                _ => None,
            });
            let statuses: Vec<(u64, PeerStatus)> = statuses.collect();
            for (id, status) in &statuses {
                self.peers.set(*id, status.clone());
            }
            if round % COMPARE_EACH == COMPARE_EACH - 1 {
                self.compare(&statuses).await;
                self.compare_states().await;
            }
        }
    }

    /// Whether the numbers in a status are plausible.
    fn plausible(&self, id: u64, status: &PeerStatus) -> bool {
        let checked = self.log.known().status(status).map_err(io::Error::from);
        let peer = || self.view.peer(id).unwrap_or_default();
        checked.inspect_err(|error| self.links.dialer().refuse_error(&peer(), error)).is_ok()
    }

    async fn ask_all(&self, ask: impl Fn(u64) -> PeerRequest) -> Vec<(u64, PeerResponse)> {
        let members = self.view.get().members;
        let asked = members.into_iter().filter(|(id, _)| *id != self.id).map(|(id, peer)| {
            let (link, ask) = (self.links.to(id, &peer), ask(id));
            async move {
                let answer = link.call(ask, Instant::now() + ASK_TIMEOUT).await.ok()?;
                Some((id, answer))
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Compares digests at the latest revision that all answering replicas have.
    async fn compare(&self, statuses: &[(u64, PeerStatus)]) {
        let own = self.machine.with_state(|state| state.revision());
        let others = statuses.iter().map(|(_, status)| status.revision);
        let Some(revision) = others.chain([own]).min().filter(|revision| *revision > 0) else {
            return;
        };
        let machine = self.machine.clone();
        let read = blocking(move || digest_at(&machine, revision));
        let Some(own) = read.await.ok().flatten() else { return };
        let answers = self.ask_all(|_| PeerRequest::DigestAt(revision)).await;
        let digests: Vec<Digest> = answers
            .iter()
            .filter_map(|(_, reply)| match reply {
                PeerResponse::DigestAt(digest) => *digest,
                _ => None,
            })
            .collect();
        self.act_on(judge(own, &digests, self.view.get().voters.len()), "history", revision);
    }

    /// Compares checkpoints at the revision of this replica's newest one.
    async fn compare_states(&self) {
        // A replica of the first release does not know this request.
        if self.machine.with_state(State::version) < version::PROOFS {
            return;
        }
        let Some(own) = self.machine.audit().checkpoints().newest() else { return };
        let answers = self.ask_all(|_| PeerRequest::StandingAt(own.revision)).await;
        let digests: Vec<Digest> = answers
            .iter()
            .filter_map(|(_, reply)| match reply {
                PeerResponse::StandingAt(standing) => {
                    standing.map(|standing| standing.state_digest)
                }
                _ => None,
            })
            .collect();
        let verdict = judge(own.state_digest, &digests, self.view.get().voters.len());
        self.act_on(verdict, "state", own.revision);
    }

    fn act_on(&self, verdict: Verdict, what: &str, revision: Revision) {
        match verdict {
            Verdict::Agreed => {}
            Verdict::Disputed => {
                tracing::error!(
                    what,
                    revision = revision.get(),
                    "state digests of the replicas differ"
                );
            }
            Verdict::Outvoted => self.fault.set(format!(
                "the other replicas agree on another {what} at revision {revision} than this one: \
                 its memory, its disk or its program is damaged: {}",
                reseed(self.id)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_differs_from_the_majority_stops() {
        let (a, b, c) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
        assert_eq!(judge(a, &[], 3), Verdict::Agreed);
        assert_eq!(judge(a, &[a, a], 3), Verdict::Agreed);
        assert_eq!(judge(a, &[b, a], 3), Verdict::Disputed);
        assert_eq!(judge(b, &[a, a], 3), Verdict::Outvoted);
        assert_eq!(judge(a, &[b, c], 3), Verdict::Disputed);
        assert_eq!(judge(a, &[b], 3), Verdict::Disputed);
        assert_eq!(judge(a, &[b, b], 5), Verdict::Disputed);
    }
}
