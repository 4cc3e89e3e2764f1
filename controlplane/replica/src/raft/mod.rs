//! # Consensus
//!
//! Everything that knows openraft. To the rest of the program a [`Replica`] commits proposals,
//! makes reads linearizable, and has the state, the history and the feed.
//!
//! ```text
//!   propose ─► proposer ─► Raft ─► log (WAL) ─► quorum ─► machine: state, history, feed ─► outcomes
//!      │ (a follower forwards to the leader)  ▲
//!      ▼                                      │ append, vote, snapshot
//!   link ── call ──► server of the leader     network ◄──► server of the followers
//! ```
//!
//! ## Laws
//! 1. An acknowledged proposal is on the disks of a quorum and applied here.
//! 2. An error says whether anything can have happened. What may have been sent is never sent again.
//! 3. Equal logs give equal states; a replica that finds its own differs stops, and says so.
//! 4. The log is purged only behind a durable snapshot and a durable history.
//! 5. A replica's data belongs to one id in one cluster, for ever ([`crate::IdentityError`]).
//! 6. Nothing here blocks the runtime: disks are waited for on other threads.
//!
//! Left out: HTTP, who may ask for what, and TLS between replicas.
//!
//! ## Reading order
//! `types`, `codec` (bytes) · `log`, `machine`, `snapshot` (what Raft stands on) · `frame`,
//! `message`, `bounds`, `dial`, `link`, `network`, `transfer`, `server` (how replicas talk) · `clocks`, `proposer`,
//! `reads` (how callers share rounds) · `view`, `peers`, `held`, `pulse`, `topics`, `problems` (what is known), `slow` · `members` (who
//! belongs) · `start`, and this file · `seed`, `stored` (data directories while nothing runs).

mod bounds;
mod clocks;
mod codec;
mod config;
mod dial;
mod facts;
mod fault;
mod frame;
mod held;
mod link;
mod log;
mod machine;
mod members;
mod message;
mod network;
mod peers;
mod problems;
mod proposer;
mod pulse;
mod quorum;
mod reads;
mod runtime;
mod seed;
mod server;
mod slow;
mod snapshot;
mod start;
mod status;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
mod topics;
mod transfer;
mod types;
mod view;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use romana_api::audit::Proof;
use romana_daemon::error::chain;
use romana_statemachine::limits::ENTRY_COMMANDS_MAX;
use romana_statemachine::{Millis, Outcome, Proposal, Revision, State, Term, version};
use romana_storage::history::History;
use romana_storage::platform::blocking;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use clocks::{ClocksStatus, WallClock};
pub use config::{ReplicaConfig, StartError, Tuning, reseed};
pub use facts::Facts;
pub use fault::FaultKind;
pub use members::{Change, Membership, next_change};
pub use problems::Problems;
pub(crate) use seed::{SeedError, seed};
use status::replaceable;
pub use status::{
    ClusterStatus, MemberProblem, MemberStatus, ProposeError, ReadError, Role, TransferError,
};
pub use topics::TopicRevisions;

use crate::audit::Audit;
use crate::feed::Feed;
use crate::metrics::{DiskTimes, PeerRefusals};
use crate::retention::{Beginning, Checkpoints, Standing};
use fault::Fault;
use link::CallError;
use log::LogStore;
use message::{Ask, Batch, Declined, Reply};
use network::Links;
use peers::{Peers, Said};
use reads::Reads;
use server::Host;
use view::View;

/// Pause before trying again, unless news of the leadership come first.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for tasks at the end.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// One replica of the control plane. Clones are handles of the same replica.
#[derive(Clone)]
pub struct Replica(Arc<Shared>);

struct Shared {
    host: Arc<Host>,
    log: LogStore,
    links: Links,
    reads: Reads,
    peers: Peers,
    view: View,
    fault: Fault,
    stop: CancellationToken,
    tasks: TaskTracker,
    audit: Audit,
    refused: PeerRefusals,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Replica {
    /// Commits proposals: all of them in one log entry, or none. Each is decided on its own; the
    /// outcomes are in the order of the proposals. On return they are applied on the leader, and
    /// on this replica only if it leads.
    ///
    /// While nothing was sent, a missing or changing leader is waited for until `deadline`.
    ///
    /// # Errors
    /// [`ProposeError`]; only [`ProposeError::Unknown`] can mean that something happened.
    pub async fn propose(
        &self,
        proposals: Vec<Proposal>,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let commands = proposals.len();
        if commands == 0 {
            return Ok(Vec::new());
        }
        let (commands_max, bytes_max) = (ENTRY_COMMANDS_MAX, proposer::BATCH_BYTES_MAX);
        let too_large = ProposeError::TooLarge { commands, commands_max, bytes_max };
        let batch = Batch::new(&proposals).ok_or(too_large)?;
        let mut news = self.0.view.watch();
        loop {
            let why = match self.propose_once(&batch, deadline).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(Declined::Busy) => return Err(ProposeError::Busy),
                Err(Declined::Unknown(why)) => return Err(ProposeError::Unknown { why }),
                Err(Declined::NotLeader) => "no leader is known".into(),
                Err(Declined::Unavailable(why)) => why,
            };
            if let Some(why) = self.fault() {
                return Err(ProposeError::Unavailable { why });
            }
            if !pause(&mut news, deadline).await {
                return Err(ProposeError::Unavailable { why });
            }
        }
    }

    async fn propose_once(
        &self,
        batch: &Batch,
        deadline: Instant,
    ) -> Result<Vec<Outcome>, Declined> {
        let Some(leader) = self.0.view.leader() else { return Err(Declined::NotLeader) };
        if leader == self.id() {
            return self.0.host.proposer.propose(batch.clone(), deadline).await;
        }
        let Some(peer) = self.0.view.peer(leader) else { return Err(Declined::NotLeader) };
        // The leader gives up a little earlier, so that its answer still arrives.
        let within = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let ask = Ask::Propose { batch: batch.clone(), within_ms };
        match self.0.links.to(leader, &peer).call(ask, deadline).await {
            Ok(Reply::Proposed(result)) => result,
            Ok(Reply::Failed(why)) => Err(Declined::Unknown(why)),
            Ok(other) => Err(Declined::Unknown(other.misfit())),
            Err(CallError::NotSent(why)) => Err(Declined::Unavailable(why)),
            Err(CallError::Lost(why)) => Err(Declined::Unknown(why)),
        }
    }

    /// Makes a read linearizable: after `Ok`, the local state includes every write that was
    /// acknowledged, by any replica, before the call.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when that is not confirmed by `deadline`.
    pub async fn linearize(&self, deadline: Instant) -> Result<(), ReadError> {
        let mut news = self.0.view.watch();
        loop {
            let asked = timeout_at(deadline, self.0.reads.index()).await;
            let why = match asked.unwrap_or_else(|_| Err("no answer in time".into())) {
                Ok(index) => {
                    let applied = timeout_at(deadline, self.0.host.machine.wait_applied(index));
                    let behind = || ReadError::Unavailable { why: "this replica is behind".into() };
                    return applied.await.map_err(|_| behind());
                }
                Err(why) => why,
            };
            if let Some(why) = self.fault() {
                return Err(ReadError::Unavailable { why });
            }
            if !pause(&mut news, deadline).await {
                return Err(ReadError::Unavailable { why });
            }
        }
    }

    /// Waits until the local state is as new as any that this replica has shown: after a restart it begins with
    /// its last snapshot, and applies what followed once a leader says how far that is committed.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when that is not so by `deadline`.
    pub async fn recovered(&self, deadline: Instant) -> Result<(), ReadError> {
        let mut news = self.0.view.watch();
        loop {
            if let Some(why) = self.fault() {
                return Err(ReadError::Unavailable { why });
            }
            if self.0.view.recovered() {
                return Ok(());
            }
            if !pause(&mut news, deadline).await {
                let why = "this replica was restarted and has not caught up with its own log";
                return Err(ReadError::Unavailable { why: why.into() });
            }
        }
    }

    /// Reads the local state under its lock. Keep it short: applying waits. For longer reads take
    /// [`Self::state`].
    pub fn with_state<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.0.host.machine.with_state(read)
    }

    /// A copy of the local state, in O(1).
    #[must_use]
    pub fn state(&self) -> State {
        self.with_state(State::clone)
    }

    /// Log time as this replica knows it: what the next entry would be stamped with if it led.
    #[must_use]
    pub fn log_time(&self) -> Millis {
        self.0.host.clocks.log_time()
    }

    /// A time that has come for certain: log time, as far as a majority of the members' clocks confirm it.
    /// `None`: they do not agree, or too few are heard. What cannot be undone waits for this one.
    #[must_use]
    pub fn confirmed_time(&self) -> Option<Millis> {
        self.0.host.clocks.confirmed_time()
    }

    /// What the members' clocks show, as this replica sees them.
    #[must_use]
    pub fn clocks(&self) -> ClocksStatus {
        self.0.host.clocks.status()
    }

    /// Changes each time the local state may have changed: the index after the last entry applied.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.0.host.machine.applied()
    }

    /// When each topic changed last, as this replica has applied it.
    #[must_use]
    pub fn topics(&self) -> watch::Receiver<TopicRevisions> {
        self.0.host.machine.topics()
    }

    /// What is wrong with the leader tasks that run on this replica.
    #[must_use]
    pub fn problems(&self) -> &Problems {
        &self.0.host.problems
    }

    /// The feed of this replica.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        self.0.host.machine.feed()
    }

    /// The history of this replica.
    #[must_use]
    pub fn history(&self) -> &History {
        self.0.host.machine.history()
    }

    /// Questions to the history of this replica.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// This replica's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.host.identity.id
    }

    /// Id of the cluster.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.0.host.identity.cluster_id.clone()
    }

    /// The cluster as this replica sees it.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let seen = self.0.view.get();
        let own = self.0.host.status();
        let said =
            |id| if id == self.id() { Some((own.clone(), true)) } else { self.0.peers.get(id) };
        let known: Vec<(u64, String, Option<Said>)> =
            seen.members.iter().map(|(id, peer)| (*id, peer.clone(), said(*id))).collect();
        let applied = |said: &Option<Said>| said.as_ref().map_or(0, |(status, _)| status.applied);
        let furthest = known.iter().map(|(.., said)| applied(said)).max().unwrap_or(0);
        let claims = self.claims();
        let members = known.into_iter().map(|(id, peer, said)| MemberStatus {
            id,
            claimed: claims.get(&id).copied().unwrap_or(false),
            peer,
            role: match () {
                () if seen.confirmed_leader() == Some(id) => Role::Leader,
                () if seen.voters.is_empty() || seen.voters.contains(&id) => Role::Follower,
                () => Role::Learner,
            },
            healthy: said
                .as_ref()
                .is_some_and(|(status, recent)| *recent && status.ready && status.fault.is_none()),
            lag: furthest.saturating_sub(applied(&said)),
            problems: self.problems_of(id, said.as_ref()),
            api: match said {
                Some((status, _)) => status.api,
                None => self.0.host.directory.get(id).unwrap_or_default(),
            },
        });
        ClusterStatus {
            cluster_id: self.0.host.identity.cluster_id.clone(),
            leader: seen.confirmed_leader(),
            term: seen.term,
            revision: own.revision,
            members: members.collect(),
            held: self.with_state(status::held),
            clocks: Some(self.clocks()),
        }
    }

    /// What is wrong with a member, as far as this replica knows.
    fn problems_of(&self, id: u64, said: Option<&Said>) -> Vec<MemberProblem> {
        let fault = said.and_then(|(status, _)| status.fault.clone());
        let fault = fault.map(|what| replaceable("Stopped", what, id));
        let older = self.0.host.positions.is_older(id);
        let older = older.then(|| replaceable("OlderCopy", held::OLDER.into(), id));
        let own = (id == self.id()).then(|| self.history().damage());
        let damage = own.unwrap_or_else(|| self.0.host.positions.damage(id));
        let damage = damage.map(|what| replaceable("HistoryDamaged", what, id));
        let tasks = if id == self.id() { self.problems().list() } else { Vec::new() };
        older.or(fault).into_iter().chain(damage).chain(tasks).collect()
    }

    /// Whether this replica can serve: [`Self::not_ready`] has no reason.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.not_ready().is_none()
    }

    /// Why this replica cannot serve: it has a fault, has not caught up with its own log, or no majority has
    /// confirmed a leader within the last second or so.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if let Some(fault) = self.fault() {
            return Some(format!("this replica has stopped: {fault}"));
        }
        if !self.0.view.recovered() {
            return Some("this replica is recovering: it applies its own log".into());
        }
        let seen = self.0.view.get();
        match (seen.leader, seen.confirmed) {
            (Some(_), true) => None,
            (None, _) => {
                Some("no leader is known: more than half of the replicas must be up".into())
            }
            (Some(id), false) if id == self.id() => {
                Some("this replica led last, and no majority follows it now".into())
            }
            (Some(id), false) => {
                Some(format!("replica {id} led last, and no majority confirms it now"))
            }
        }
    }

    /// Returns when [`Self::is_ready`] holds, or with the fault when there is one.
    ///
    /// # Errors
    /// The fault.
    pub async fn wait_ready(&self) -> Result<(), String> {
        let mut news = self.0.view.watch();
        loop {
            if self.is_ready() {
                return Ok(());
            }
            tokio::select! {
                why = self.0.fault.wait() => return Err(why),
                _ = news.changed() => {}
            }
        }
    }

    /// Why this replica has stopped, if it has. It does not start again by itself.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.0.fault.get().or_else(|| self.0.log.wal().failed().map(|error| chain(&*error)))
    }

    /// Of what kind [`Self::fault`] is.
    #[must_use]
    pub fn fault_kind(&self) -> Option<FaultKind> {
        self.0.fault.kind()
    }

    /// Returns when this replica has stopped, with the reason.
    pub async fn wait_fault(&self) -> (FaultKind, String) {
        self.0.fault.wait_kind().await
    }

    /// The term in which this replica leads; `None` while it does not. A channel to watch.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Option<Term>> {
        let (send, receive) = watch::channel(self.0.view.get().leads);
        let (mut news, stop) = (self.0.view.watch(), self.0.stop.clone());
        self.0.tasks.spawn(async move {
            loop {
                let leads = news.borrow_and_update().leads;
                send.send_if_modified(|now| std::mem::replace(now, leads) != leads);
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = send.closed() => return,
                    changed = news.changed() => if changed.is_err() { break },
                }
            }
            send.send_replace(None);
        });
        receive
    }

    /// Hands leadership to another voter, from any replica. Returns when it was asked for; watch
    /// [`Self::status`] for the effect.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer(&self, to: u64, deadline: Instant) -> Result<(), TransferError> {
        let seen = self.0.view.get();
        if !seen.voters.contains(&to) {
            return Err(TransferError::NotVoter { to });
        }
        let unavailable = |why: String| TransferError::Unavailable { why };
        let leader = seen.leader.ok_or_else(|| unavailable("no leader is known".into()))?;
        if leader == self.id() {
            return self.0.host.hand_over(to).await.map_err(unavailable);
        }
        let peer = seen.members.get(&leader);
        let peer = peer.ok_or_else(|| unavailable("the leader's address is not known".into()))?;
        let answer = self.0.links.to(leader, peer).call(Ask::HandOver(to), deadline).await;
        match answer.map_err(|error| unavailable(error.to_string()))? {
            Reply::HandedOver(result) => result.map_err(unavailable),
            other => Err(unavailable(other.misfit())),
        }
    }

    /// What the programs of all members are: this replica's own, and what the others say.
    pub async fn facts(&self, within: Duration) -> BTreeMap<u64, io::Result<Facts>> {
        let members = self.0.view.get().members;
        let dialer = self.0.links.dialer();
        let asked = members.iter().map(async |(id, peer)| {
            let own = *id == self.id();
            let facts = if own {
                Ok(self.with_state(Facts::own))
            } else {
                facts::ask(dialer, *id, peer, within).await
            };
            (*id, facts)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Says who keeps states of the past on this replica. Only the first call counts.
    pub fn keep_checkpoints(&self, checkpoints: Arc<dyn Checkpoints>) {
        _ = self.0.host.checkpoints.set(checkpoints);
    }

    /// Who keeps states of the past on this replica, once there is somebody.
    #[must_use]
    pub fn checkpoints(&self) -> Option<Arc<dyn Checkpoints>> {
        self.0.host.checkpoints.get().cloned()
    }

    /// What the voters say about their checkpoints at a revision, each making it if it can: this
    /// replica's own word included. To be asked from version 2 on.
    pub async fn checkpoints_at(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> BTreeMap<u64, Result<Standing, String>> {
        let view::Seen { members, voters, .. } = self.0.view.get();
        let asked = members.iter().filter(|(id, _)| voters.contains(id)).map(async |(id, peer)| {
            if *id == self.id() {
                return (*id, self.0.host.checkpoint_at(revision).await);
            }
            let ask = Ask::CheckpointAt(revision);
            let said = match self.0.links.to(*id, peer).call(ask, deadline).await {
                Ok(Reply::CheckpointAt(said)) => said,
                Ok(other) => Err(other.misfit()),
                Err(error) => Err(error.to_string()),
            };
            (*id, said)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Has every member read and fold its whole history: what each finds at a revision, or why it finds
    /// nothing. Takes as long as the slowest.
    pub async fn prove(
        &self,
        at: Revision,
        deadline: Instant,
    ) -> BTreeMap<u64, Result<Proof, String>> {
        let members = self.0.view.get().members;
        // A replica of the first release would not know the question.
        let all = self.with_state(State::version) >= version::PROOFS;
        let asked = members.iter().map(async |(id, peer)| {
            let proof = async {
                if *id == self.id() {
                    return self.0.host.prove(at).await;
                }
                if !all {
                    return Err("it may be of an older release".into());
                }
                match self.0.links.to(*id, peer).call(Ask::Prove(at), deadline).await {
                    Ok(Reply::Proved(proof)) => proof,
                    Ok(other) => Err(other.misfit()),
                    Err(error) => Err(error.to_string()),
                }
            };
            let late = || Err("it has not answered in time".into());
            (*id, timeout_at(deadline, proof).await.unwrap_or_else(|_| late()))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Where the members' histories begin, of those that say so. To be asked from version 4 on; before, only
    /// this replica answers.
    pub async fn beginnings(&self, deadline: Instant) -> BTreeMap<u64, Beginning> {
        let members = self.0.view.get().members;
        let all = self.with_state(State::version) >= version::BEGINNINGS;
        let asked = members.iter().map(async |(id, peer)| {
            if *id == self.id() {
                return Some((*id, self.0.host.beginning().await.ok()?));
            }
            if !all {
                return None;
            }
            match self.0.links.to(*id, peer).call(Ask::Beginning, deadline).await {
                Ok(Reply::Beginning(Ok(beginning))) => Some((*id, beginning)),
                _ => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Revision of this replica's newest snapshot; 0 when there is none.
    #[must_use]
    pub fn snapshot_revision(&self) -> Revision {
        self.0.host.machine.snapshot_revision()
    }

    /// Hands leadership, if it is here, to the healthy voter that is furthest, and waits until it is
    /// there.
    ///
    /// # Errors
    /// [`TransferError::Unavailable`] when there is none, or it did not take over by `deadline`.
    pub async fn hand_over(&self, deadline: Instant) -> Result<(), TransferError> {
        let status = self.status();
        if status.leader != Some(self.id()) {
            return Ok(());
        }
        let unavailable = |why: &str| TransferError::Unavailable { why: why.into() };
        let heirs = status.members.iter().filter(|member| {
            member.id != self.id() && member.healthy && member.role == Role::Follower
        });
        let heir = heirs.min_by_key(|member| member.lag);
        let heir = heir.ok_or_else(|| unavailable("no other voter is healthy"))?.id;
        self.transfer(heir, deadline).await?;
        let mut news = self.0.view.watch();
        let gone = timeout_at(deadline, news.wait_for(|seen| seen.leads.is_none())).await;
        gone.map(|_| ()).map_err(|_| unavailable("nobody took over in time"))
    }

    /// What the disk takes, for metrics.
    #[must_use]
    pub fn disk_times(&self) -> &DiskTimes {
        self.0.host.machine.times()
    }

    /// What was refused of what other replicas sent, for metrics.
    #[must_use]
    pub fn peer_refusals(&self) -> &PeerRefusals {
        &self.0.refused
    }

    /// Writes a snapshot soon, and purges the log behind it.
    ///
    /// # Errors
    /// Why Raft cannot.
    pub async fn snapshot(&self) -> Result<(), String> {
        self.0.host.raft.trigger().snapshot().await.map_err(|error| error.to_string())
    }

    /// Stops: leaves the cluster as a crash would, but with everything on disk. Callers that wait
    /// get errors. Idempotent.
    pub async fn shutdown(self) {
        self.0.stop.cancel();
        self.0.links.clear();
        if let Err(error) = self.0.host.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        self.0.tasks.close();
        if timeout(SHUTDOWN_MAX, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("tasks of the replica are still running");
        }
        let (history, audit) = (self.history().clone(), self.audit().clone());
        let end = move || {
            audit.stop();
            history.sync()
        };
        let synced = blocking(end).await;
        if let Ok(Err(error)) = synced {
            tracing::error!(error = %chain(&error), "the history is not durable");
        }
    }
}

/// Waits a moment, or for news of the leadership. `false` when the deadline has passed.
async fn pause(news: &mut watch::Receiver<view::Seen>, deadline: Instant) -> bool {
    if Instant::now() + RETRY_PAUSE >= deadline {
        return false;
    }
    // Neither outcome matters: in both cases it is time to try again.
    _ = timeout(RETRY_PAUSE, news.changed()).await;
    true
}
