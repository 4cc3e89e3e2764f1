//! Evidence of the past on this replica and on the others, for comparison.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use romana_api::audit::Proof;
use romana_statemachine::{Revision, State, version};
use tokio::time::{Instant, timeout_at};

use crate::raft::Shared;
use crate::raft::known::view;
use crate::raft::peer::message::{PeerRequest, PeerResponse};
use crate::retention::{Beginning, CheckpointId, Checkpoints};

/// Checkpoints, history proofs and history beginnings of the replicas.
#[derive(Clone, Copy)]
pub struct Evidence<'a>(pub(in crate::raft) &'a Shared);

impl Evidence<'_> {
    /// Registers the checkpoint store of this replica. Only the first call counts.
    pub fn keep(self, checkpoints: Arc<dyn Checkpoints>) {
        _ = self.0.host.checkpoints.set(checkpoints);
    }

    /// The checkpoint store of this replica, once registered.
    #[must_use]
    pub fn checkpoints(self) -> Option<Arc<dyn Checkpoints>> {
        self.0.host.checkpoints.get().cloned()
    }

    /// The voters' checkpoints at a revision, this replica's included; each voter creates the checkpoint if it can.
    /// Available from cluster version 2 on.
    pub async fn checkpoints_at(
        self,
        revision: Revision,
        deadline: Instant,
    ) -> BTreeMap<u64, Result<CheckpointId, String>> {
        let view::Seen { members, voters, .. } = self.0.view.get();
        let asked = members.iter().filter(|(id, _)| voters.contains(id)).map(async |(id, peer)| {
            if *id == self.0.id() {
                return (*id, self.0.host.checkpoint_at(revision).await);
            }
            let ask = PeerRequest::CheckpointAt(revision);
            let said = match self.0.links.to(*id, peer).call(ask, deadline).await {
                Ok(PeerResponse::CheckpointAt(said)) => said,
                Ok(other) => Err(other.misfit()),
                Err(error) => Err(error.to_string()),
            };
            (*id, said)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Makes every member read and fold its whole history: per member, the digests at a revision, or why there are
    /// none. Takes as long as the slowest member.
    pub async fn prove(
        self,
        at: Revision,
        deadline: Instant,
    ) -> BTreeMap<u64, Result<Proof, String>> {
        let members = self.0.view.get().members;
        // A replica of the first release does not know this request.
        let all = self.0.with_state(State::version) >= version::PROOFS;
        let asked = members.iter().map(async |(id, peer)| {
            let proof = async {
                if *id == self.0.id() {
                    return self.0.host.prove(at).await;
                }
                if !all {
                    return Err("it may be of an older release".into());
                }
                match self.0.links.to(*id, peer).call(PeerRequest::Prove(at), deadline).await {
                    Ok(PeerResponse::Proved(proof)) => proof,
                    Ok(other) => Err(other.misfit()),
                    Err(error) => Err(error.to_string()),
                }
            };
            let late = || Err("it has not answered in time".into());
            (*id, timeout_at(deadline, proof).await.unwrap_or_else(|_| late()))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Where the members' histories begin, for members that answer. Available from cluster version 4 on; before, only
    /// this replica's is known.
    pub async fn beginnings(self, deadline: Instant) -> BTreeMap<u64, Beginning> {
        let members = self.0.view.get().members;
        let all = self.0.with_state(State::version) >= version::BEGINNINGS;
        let asked = members.iter().map(async |(id, peer)| {
            if *id == self.0.id() {
                return Some((*id, self.0.host.beginning().await.ok()?));
            }
            if !all {
                return None;
            }
            match self.0.links.to(*id, peer).call(PeerRequest::Beginning, deadline).await {
                Ok(PeerResponse::Beginning(Ok(beginning))) => Some((*id, beginning)),
                _ => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
