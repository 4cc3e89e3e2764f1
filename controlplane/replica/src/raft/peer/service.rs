//! Serves requests from other replicas, and from this replica itself.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::ReadPolicy;
use romana_api::audit::Proof;
use romana_daemon::error::chain;
use romana_daemon::problems::Problems;
use romana_statemachine::Revision;
use romana_statemachine::agent::PodRef;
use romana_statemachine::name::SegmentId;
use romana_storage::platform::blocking;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::Cancel;
use crate::identity::Identity;
use crate::pods::Pods;
use crate::raft::fault::Fault;
use crate::raft::known::clocks::Clocks;
use crate::raft::known::heartbeats::Pulse;
use crate::raft::known::leases::Leases;
use crate::raft::known::positions::{ParticipationGate, Positions};
use crate::raft::known::view::View;
use crate::raft::peer::bounds::Implausible;
use crate::raft::peer::dial::{Complaints, Directory};
use crate::raft::peer::message::{NotCommitted, PeerRequest, PeerResponse, PeerStatus};
use crate::raft::proposer::Proposer;
use crate::raft::reads::ROUND_MAX;
use crate::raft::store::log::LogStore;
use crate::raft::store::machine::Machine;
use crate::raft::store::machine::Raft;
use crate::retention::{Beginning, CheckpointId, Checkpoints};

/// Longest a forwarded proposal may ask to wait.
const WITHIN_MAX: Duration = Duration::from_secs(60);

/// Allows one proof of the whole history at a time.
static PROVING: Semaphore = Semaphore::const_new(1);

/// The components needed to serve requests.
pub(in crate::raft) struct PeerService {
    pub(in crate::raft) identity: Identity,
    pub(in crate::raft) api: String,
    pub(in crate::raft) raft: Raft,
    pub(in crate::raft) log: LogStore,
    pub(in crate::raft) machine: Machine,
    pub(in crate::raft) proposer: Proposer,
    pub(in crate::raft) view: View,
    pub(in crate::raft) fault: Fault,
    pub(in crate::raft) directory: Directory,
    pub(in crate::raft) complaints: Complaints,
    /// The checkpoint store, once registered.
    pub(in crate::raft) checkpoints: OnceLock<Arc<dyn Checkpoints>>,
    /// Knows the pods' segments, once registered.
    pub(in crate::raft) pods: OnceLock<Arc<dyn Pods>>,
    /// Problems of the leader tasks on this replica.
    pub(in crate::raft) problems: Problems,
    /// Heartbeats of the agents.
    pub(in crate::raft) pulse: Pulse,
    /// Leases of VIPs.
    pub(in crate::raft) leases: Leases,
    pub(in crate::raft) clocks: Clocks,
    /// Known positions of the other replicas.
    pub(in crate::raft) positions: Positions,
    /// Holds back votes and entries until the other replicas were asked.
    pub(in crate::raft) gate: ParticipationGate,
    /// Files that were missing at the start, and without which the loss of others is not noticed.
    pub(in crate::raft) missing: Vec<PathBuf>,
}

impl PeerService {
    /// Checks that the numbers in a request are plausible.
    pub(in crate::raft) fn plausible(
        &self,
        from: u64,
        ask: &PeerRequest,
    ) -> Result<(), Implausible> {
        let known = self.log.known();
        match ask {
            PeerRequest::Vote(request) | PeerRequest::PreVote(request) => {
                known.vote_request(from, request)
            }
            PeerRequest::Transfer(request) => known.transfer(request),
            PeerRequest::DigestAt(revision)
            | PeerRequest::CheckpointAt(revision)
            | PeerRequest::Prove(revision)
            | PeerRequest::StandingAt(revision) => known.revision(*revision),
            PeerRequest::Ping
            | PeerRequest::Propose { .. }
            | PeerRequest::ReadIndex
            | PeerRequest::Status
            | PeerRequest::HandOver(_)
            | PeerRequest::Heartbeats(_)
            | PeerRequest::Heard
            | PeerRequest::Refused(_)
            | PeerRequest::RefusedAgents
            | PeerRequest::PodSegment(_)
            | PeerRequest::Beginning
            | PeerRequest::RenewVips(_)
            | PeerRequest::VipLeases => Ok(()),
        }
    }

    pub(in crate::raft) async fn answer(&self, ask: PeerRequest) -> PeerResponse {
        if matches!(ask, PeerRequest::Vote(_) | PeerRequest::PreVote(_) | PeerRequest::Transfer(_))
            && let Err(error) = self.gate.pass().await
        {
            return PeerResponse::Failed(error.to_string());
        }
        match ask {
            PeerRequest::Ping => PeerResponse::Pong,
            PeerRequest::Vote(request) => match self.raft.vote(request).await {
                Ok(response) => PeerResponse::Vote(response),
                Err(error) => PeerResponse::Failed(error.to_string()),
            },
            PeerRequest::PreVote(request) => match self.raft.pre_vote(request).await {
                Ok(response) => PeerResponse::Vote(response),
                Err(error) => PeerResponse::Failed(error.to_string()),
            },
            PeerRequest::Transfer(request) => match self.raft.handle_transfer_leader(request).await
            {
                Ok(response) => PeerResponse::Transferred(response),
                Err(error) => PeerResponse::Failed(error.to_string()),
            },
            PeerRequest::Propose { batch, within_ms } => {
                if !batch.check() {
                    let why = "the leader cannot read the commands: it may be of another version";
                    return PeerResponse::Proposed(Err(NotCommitted::Unavailable(why.into())));
                }
                let within = Duration::from_millis(within_ms).min(WITHIN_MAX);
                PeerResponse::Proposed(self.proposer.propose(batch, Instant::now() + within).await)
            }
            PeerRequest::ReadIndex => PeerResponse::ReadIndex(self.read_index().await),
            PeerRequest::Status => PeerResponse::Status(self.status()),
            PeerRequest::HandOver(to) => PeerResponse::HandedOver(self.hand_over(to).await),
            PeerRequest::DigestAt(revision) => {
                let machine = self.machine.clone();
                let read = move || crate::raft::known::peers::digest_at(&machine, revision);
                PeerResponse::DigestAt(blocking(read).await.ok().flatten())
            }
            PeerRequest::CheckpointAt(revision) => {
                PeerResponse::CheckpointAt(self.checkpoint_at(revision).await)
            }
            PeerRequest::Prove(revision) => PeerResponse::Proved(self.prove(revision).await),
            PeerRequest::StandingAt(revision) => {
                PeerResponse::StandingAt(self.machine.audit().checkpoints().id(revision))
            }
            PeerRequest::Heartbeats(heartbeats) => {
                self.pulse.hear(heartbeats);
                PeerResponse::Pong
            }
            PeerRequest::Heard => {
                PeerResponse::Heard(self.view.get().leads.map(|_| self.pulse.heard()))
            }
            PeerRequest::Refused(agents) => {
                self.pulse.refuse(agents);
                PeerResponse::Pong
            }
            PeerRequest::RefusedAgents => {
                PeerResponse::RefusedAgents(self.view.get().leads.map(|_| self.pulse.refused()))
            }
            PeerRequest::Beginning => PeerResponse::Beginning(self.beginning().await),
            PeerRequest::PodSegment(pod) => PeerResponse::PodSegment(self.pod_segment(&pod).await),
            PeerRequest::RenewVips(renewal) => {
                PeerResponse::VipsRenewed(self.renew_vips(&renewal).await)
            }
            PeerRequest::VipLeases => PeerResponse::VipLeases(self.vip_leases()),
        }
    }

    /// Reads and folds this replica's whole history; returns the digests at a revision. Concurrent calls run one
    /// after the other; dropping the future cancels the work.
    pub(in crate::raft) async fn prove(&self, at: Revision) -> Result<Proof, String> {
        // Wait for the revision before queueing: a caller whose revision never comes must not block others.
        let mut applied = self.machine.applied();
        while self.machine.with_state(|state| state.revision()) < at {
            applied.changed().await.map_err(|error| error.to_string())?;
        }
        let turn = PROVING.acquire().await.map_err(|error| error.to_string())?;
        let machine = self.machine.clone();
        let cancel = Cancel::default();
        let _guard = cancel.on_drop();
        let prove = move || {
            let _turn = turn;
            let live = machine.with_state(romana_statemachine::State::clone);
            machine.audit().prove(&live, at, &cancel).map_err(|error| chain(&error))
        };
        blocking(prove).await.map_err(|error| error.to_string())?
    }

    /// The segment of a pod, if this replica knows the pod; `None`: it does not lead.
    async fn pod_segment(&self, pod: &PodRef) -> Option<Option<SegmentId>> {
        self.view.get().leads?;
        let Some(pods) = self.pods.get() else { return Some(None) };
        let segment = pods.segment(pod).await;
        // The next leader may know more.
        self.view.get().leads.map(|_| segment)
    }

    /// Where this replica's history begins.
    pub(in crate::raft) async fn beginning(&self) -> Result<Beginning, String> {
        let retention = self.machine.with_state(|state| state.retention().clone());
        let history = self.machine.history().clone();
        let read = move || Ok(Beginning::of(&history.segments()?, &retention));
        let read = blocking(read).await.map_err(|error| error.to_string())?;
        read.map_err(|error: romana_storage::history::HistoryError| chain(&error))
    }

    /// The digests of this replica's checkpoint at a revision, created if possible; or why there is none.
    pub(in crate::raft) async fn checkpoint_at(
        &self,
        revision: Revision,
    ) -> Result<CheckpointId, String> {
        let checkpoints = self.checkpoints.get().ok_or("this replica keeps no checkpoints")?;
        let checkpoints = Arc::clone(checkpoints);
        let hold = move || checkpoints.hold(revision);
        blocking(hold).await.map_err(|error| error.to_string())?
    }

    /// Starts a leadership transfer to `to`, if this replica leads.
    pub(in crate::raft) async fn hand_over(&self, to: u64) -> Result<(), String> {
        if self.view.get().leads.is_none() {
            return Err("this replica does not lead any more".into());
        }
        self.raft.trigger().transfer_leader(to).await.map_err(|error| error.to_string())
    }

    /// The read index, if this replica leads.
    pub(in crate::raft) async fn read_index(&self) -> Result<u64, String> {
        // Right after a restart a leader may know less than it acknowledged before.
        if !self.view.recovered() {
            return Err("this replica has not yet caught up with its own log".into());
        }
        let asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match timeout(ROUND_MAX, asked).await {
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no quorum answers".into()),
        }
    }

    pub(in crate::raft) fn status(&self) -> PeerStatus {
        let seen = self.view.get();
        let (revision, digest) =
            self.machine.with_state(|state| (state.revision(), state.digest()));
        PeerStatus {
            api: self.api.clone(),
            term: seen.term,
            leader: seen.leader,
            revision,
            applied: self.machine.last_applied().map_or(0, |id| id.index),
            digest,
            ready: self.view.recovered() && self.fault.get().is_none(),
            fault: self.fault.get(),
        }
    }
}
