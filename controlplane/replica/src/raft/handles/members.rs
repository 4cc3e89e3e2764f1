//! Members: their status, membership changes, and this replica's claim to its id.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use romana_statemachine::command::{ClaimMember, MemberRef};
use romana_statemachine::{Actor, Command, Member as Known, Proposal, version};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::raft::known::peers::PeerReport;
use crate::raft::known::positions;
use crate::raft::members::{Change, Membership};
use crate::raft::peer::facts;
use crate::raft::status::{self, file_missing, of_task, replaceable};
use crate::raft::store::types::Member;
use crate::raft::{ClusterStatus, Facts, MemberProblem, MemberStatus, Role, Shared};

/// How often a replica checks its own claim.
const CLAIM_EVERY: Duration = Duration::from_millis(250);
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a removed voter keeps running, so that the change that removes it can commit.
const REMOVED_GRACE: Duration = Duration::from_secs(5);

/// The members of the cluster: their status, and membership changes.
#[derive(Clone, Copy)]
pub struct Members<'a>(pub(in crate::raft) &'a Shared);

impl<'a> Members<'a> {
    /// The cluster as this replica sees it.
    #[must_use]
    pub fn status(self) -> ClusterStatus {
        let seen = self.0.view.get();
        let own = self.0.host.status();
        let said =
            |id| if id == self.0.id() { Some((own.clone(), true)) } else { self.0.peers.get(id) };
        let known: Vec<(u64, String, Option<PeerReport>)> =
            seen.members.iter().map(|(id, peer)| (*id, peer.clone(), said(*id))).collect();
        let applied =
            |said: &Option<PeerReport>| said.as_ref().map_or(0, |(status, _)| status.applied);
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
            held: self.0.with_state(status::held),
            clocks: Some(self.0.host.clocks.status()),
        }
    }

    /// Problems of a member, as far as this replica knows.
    fn problems_of(self, id: u64, said: Option<&PeerReport>) -> Vec<MemberProblem> {
        let fault = said.and_then(|(status, _)| status.fault.clone());
        let fault = fault.map(|what| replaceable("Stopped", what, id));
        let older = self.0.host.positions.is_older(id);
        let older = older.then(|| replaceable("OlderCopy", positions::OLDER.into(), id));
        let own = (id == self.0.id()).then(|| self.0.host.machine.history().damage());
        let damage = own.unwrap_or_else(|| self.0.host.positions.damage(id));
        let damage = damage.map(|what| replaceable("HistoryDamaged", what, id));
        let tasks = (id == self.0.id()).then(|| self.0.host.problems.coded());
        let tasks = tasks.into_iter().flatten().map(of_task);
        let missing = (id == self.0.id()).then_some(&self.0.host.missing);
        let missing = missing.into_iter().flatten().map(|file| file_missing(file, id));
        older.or(fault).into_iter().chain(damage).chain(missing).chain(tasks).collect()
    }

    /// Program facts of all members, this replica included.
    pub async fn facts(self, within: Duration) -> BTreeMap<u64, io::Result<Facts>> {
        let members = self.0.view.get().members;
        let dialer = self.0.links.dialer();
        let asked = members.iter().map(async |(id, peer)| {
            let own = *id == self.0.id();
            let facts = if own {
                Ok(self.0.with_state(Facts::own))
            } else {
                facts::ask(dialer, *id, peer, within).await
            };
            (*id, facts)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Raft's membership as this replica knows it.
    pub fn membership(self) -> Membership {
        let metrics = self.0.host.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let members = stored.nodes().map(|(id, _)| *id);
        let learners = members.filter(|id| !voters.contains(id)).collect();
        let joint = stored.membership().get_joint_config().len() > 1;
        Membership { voters, learners, joint }
    }

    /// Performs a membership change. Only the leader may; other replicas get an error.
    ///
    /// # Errors
    /// Why the change was not made, or why its outcome is unknown.
    pub async fn change(self, change: Change, deadline: Instant) -> Result<(), String> {
        let raft = &self.0.host.raft;
        let made = async {
            match change {
                Change::AddLearner { id, peer } => {
                    let added = raft.add_learner(id, Member { peer }, false).await;
                    added.map(|_| ()).map_err(|error| error.to_string())
                }
                Change::SetVoters(voters) => {
                    let voters = ChangeMembers::ReplaceAllVoters(voters);
                    let changed = raft.change_membership(voters, false).await;
                    changed.map(|_| ()).map_err(|error| error.to_string())
                }
                Change::DropLearner(id) => {
                    let gone = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
                    let changed = raft.change_membership(gone, false).await;
                    changed.map(|_| ()).map_err(|error| error.to_string())
                }
                Change::HandOver(to) => self
                    .0
                    .leadership()
                    .transfer(to, deadline)
                    .await
                    .map_err(|error| error.to_string()),
                Change::Retire(id) => {
                    let command = Command::RemoveMember(MemberRef { id });
                    self.say(command, "task:members", deadline).await
                }
            }
        };
        let late = || Err("it is not finished in time".into());
        timeout_at(deadline, made).await.unwrap_or_else(|_| late())
    }

    async fn say(self, command: Command, actor: &str, deadline: Instant) -> Result<(), String> {
        let proposal = Proposal { actor: Actor::from(actor), command };
        let proposed = self.0.propose(vec![proposal], deadline).await;
        let outcomes = proposed.map_err(|error| error.to_string())?;
        let refused = outcomes.into_iter().find_map(|outcome| outcome.result.err());
        refused.map_or(Ok(()), |refusal| Err(refusal.to_string()))
    }

    /// The nonce of this replica's data directory.
    #[must_use]
    pub fn nonce(self) -> Option<&'a str> {
        self.0.host.identity.nonce.as_deref()
    }

    /// The members in the state, and whether each has started.
    pub fn claims(self) -> BTreeMap<u64, bool> {
        let claimed = |member: &Known| (member.id, member.nonce.is_some());
        self.0.with_state(|state| state.members().map(claimed).collect())
    }

    /// Claims this replica's id for its data directory, once the cluster version has claims, and checks the claim
    /// until `stop`: a replica whose id belongs to another directory, or is no longer a member, stops with a fault.
    pub async fn keep_claim(self, stop: CancellationToken) {
        let mut removed = None;
        while !stop.is_cancelled() && self.0.health().fault().is_none() {
            match self.claim_state() {
                ClaimState::Unclaimed(nonce) => {
                    // Advertise the address that the other members were told.
                    if let Some(peer) = self.0.view.peer(self.0.id()) {
                        let claim = ClaimMember { id: self.0.id(), nonce, peer };
                        let command = Command::ClaimMember(claim);
                        let said =
                            self.say(command, "replica", Instant::now() + CLAIM_TIMEOUT).await;
                        if let Err(why) = said {
                            tracing::debug!(why, "id not claimed yet");
                        }
                    }
                }
                ClaimState::Valid => removed = None,
                ClaimState::Removed => {
                    let since = *removed.get_or_insert_with(Instant::now);
                    let voter = self.0.view.get().voters.contains(&self.0.id());
                    if !voter || since.elapsed() > REMOVED_GRACE {
                        self.0.fault.set(removed_text(self.0.id()));
                    }
                }
                ClaimState::Taken => self.0.fault.set(taken_text(self.0.id())),
            }
            // Cutting the wait short is harmless.
            _ = timeout(CLAIM_EVERY, stop.cancelled()).await;
        }
        // With a fault there is nothing left to check. A task that ends before `stop` would end the program, which
        // may have to stay up to report the fault.
        stop.cancelled().await;
    }

    fn claim_state(self) -> ClaimState {
        let id = self.0.id();
        let Some(own) = self.nonce() else { return ClaimState::Valid };
        self.0.with_state(|state| {
            match state.member(id).and_then(|member| member.nonce.as_deref()) {
                _ if state.version() < version::MEMBERS => ClaimState::Valid,
                _ if state.member_is_removed(id) => ClaimState::Removed,
                None => ClaimState::Unclaimed(own.into()),
                Some(nonce) if nonce == own => ClaimState::Valid,
                Some(_) => ClaimState::Taken,
            }
        })
    }
}

/// State of this replica's claim to its id.
enum ClaimState {
    Valid,
    Unclaimed(String),
    Removed,
    Taken,
}

fn removed_text(id: u64) -> String {
    format!(
        "replica {id} was removed from the cluster, and its id is never used again: to have a \
         replica here, run `romana cluster add PEER`, empty the data directory, and start it with \
         --join"
    )
}

fn taken_text(id: u64) -> String {
    format!(
        "id {id} belongs to another data directory than this one, which is new or a copy: run \
         `romana cluster replace {id}`, empty this data directory, and start it with --join"
    )
}
