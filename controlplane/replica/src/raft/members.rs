//! Membership: which change of Raft's membership the state asks for next, and how it is made.
//!
//! The state says who is a member; Raft's membership follows it, one change at a time:
//!
//! ```text
//!   AddMember ─► learner ─► (it starts: ClaimMember) ─► caught up ─► voter, in place of `replaces`
//!   RemoveMember ─► (it leads: hands over) ─► not in Raft's membership any more
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use romana_statemachine::command::{ClaimMember, MemberRef};
use romana_statemachine::{Actor, Command, Member as Known, Proposal, State, version};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Replica;
use super::status::{ClusterStatus, MemberStatus};
use super::types::Member;

/// A learner that is at most so many entries behind may vote.
const LAG_MAX: u64 = 1000;
/// How often a replica looks at its own claim.
const CLAIM_EVERY: Duration = Duration::from_millis(250);
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);
/// A removed voter helps for so long to agree on the membership without it.
const REMOVED_GRACE: Duration = Duration::from_secs(5);

/// Raft's membership as the leader has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Who votes; while a change is under way, by the membership before it or after it.
    pub voters: BTreeSet<u64>,
    /// Who follows only.
    pub learners: BTreeSet<u64>,
    /// A change was begun and is not at its end.
    pub joint: bool,
}

/// One step towards the membership that the state asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replicate to a new member.
    AddLearner {
        /// Its id.
        id: u64,
        /// Its peer address.
        peer: String,
    },
    /// Let exactly these vote; other voters leave.
    SetVoters(BTreeSet<u64>),
    /// Stop replicating to a learner.
    DropLearner(u64),
    /// Another leader, since this one is to leave.
    HandOver(u64),
    /// Retire the id of a member that was replaced.
    Retire(u64),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddLearner { id, peer } => write!(f, "replicate to replica {id} at {peer}"),
            Self::SetVoters(voters) => {
                let ids: Vec<String> = voters.iter().map(ToString::to_string).collect();
                write!(f, "replicas {} vote", ids.join(", "))
            }
            Self::DropLearner(id) => write!(f, "stop replicating to replica {id}"),
            Self::HandOver(id) => write!(f, "hand leadership over to replica {id}"),
            Self::Retire(id) => write!(f, "retire the id of replica {id}, which was replaced"),
        }
    }
}

/// The next step, seen from the leader; `None`: the membership is as the state says.
pub fn next_change(state: &State, raft: &Membership, status: &ClusterStatus) -> Option<Change> {
    let Membership { voters, learners, joint } = raft;
    let removed = |id: &u64| state.member_is_removed(*id);
    let staying: BTreeSet<u64> = voters.iter().copied().filter(|id| !removed(id)).collect();
    if staying != *voters && !staying.is_empty() {
        return match status.leader.filter(removed) {
            Some(_) => successor(status, &staying).map(Change::HandOver),
            None => Some(Change::SetVoters(staying)),
        };
    }
    if *joint {
        return Some(Change::SetVoters(staying));
    }
    if let Some(id) = learners.iter().copied().find(removed) {
        return Some(Change::DropLearner(id));
    }
    // One whose successor votes already only waits for its id to be retired.
    let leaving = |id| state.members().any(|member| member.replaces == Some(id));
    let strange = |member: &&Known| {
        let id = member.id;
        !voters.contains(&id) && !learners.contains(&id) && !leaving(id)
    };
    if let Some(member) = state.members().find(strange) {
        return Some(Change::AddLearner { id: member.id, peer: member.peer.clone() });
    }
    for member in state.members() {
        let replaced = member.replaces.filter(|id| !removed(id));
        if voters.contains(&member.id) {
            match replaced {
                Some(id) => return Some(Change::Retire(id)),
                None => continue,
            }
        }
        if member.nonce.is_none() || !caught_up(status, member.id) {
            continue;
        }
        if replaced.is_some() && replaced == status.leader {
            if let Some(next) = successor(status, &(&staying - &replaced.into_iter().collect())) {
                return Some(Change::HandOver(next));
            }
            continue;
        }
        let mut wanted = staying.clone();
        wanted.insert(member.id);
        replaced.inspect(|id| _ = wanted.remove(id));
        // Never a membership that could not go on: it waits until enough of them are well.
        let healthy = wanted.iter().filter_map(|id| of(status, *id)).filter(|one| one.healthy);
        if healthy.count() * 2 <= wanted.len() {
            continue;
        }
        return Some(Change::SetVoters(wanted));
    }
    None
}

fn of(status: &ClusterStatus, id: u64) -> Option<&MemberStatus> {
    status.members.iter().find(|member| member.id == id)
}

fn caught_up(status: &ClusterStatus, id: u64) -> bool {
    of(status, id).is_some_and(|member| member.healthy && member.lag <= LAG_MAX)
}

/// The healthy voter that is furthest.
fn successor(status: &ClusterStatus, among: &BTreeSet<u64>) -> Option<u64> {
    let healthy = among.iter().filter_map(|id| of(status, *id)).filter(|member| member.healthy);
    healthy.min_by_key(|member| (member.lag, member.id)).map(|member| member.id)
}

impl Replica {
    /// Raft's membership, as this replica has it.
    pub fn membership(&self) -> Membership {
        let metrics = self.0.host.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let members = stored.nodes().map(|(id, _)| *id);
        let learners = members.filter(|id| !voters.contains(id)).collect();
        let joint = stored.membership().get_joint_config().len() > 1;
        Membership { voters, learners, joint }
    }

    /// Makes a change of the membership. For the leader; anybody else is refused.
    ///
    /// # Errors
    /// Why it was not made, or is not known to be.
    pub async fn change(&self, change: Change, deadline: Instant) -> Result<(), String> {
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
                Change::HandOver(to) => {
                    self.transfer(to, deadline).await.map_err(|error| error.to_string())
                }
                Change::Retire(id) => {
                    let command = Command::RemoveMember(MemberRef { id });
                    self.say(command, "task:members", deadline).await
                }
            }
        };
        let late = || Err("it is not finished in time".into());
        timeout_at(deadline, made).await.unwrap_or_else(|_| late())
    }

    async fn say(&self, command: Command, actor: &str, deadline: Instant) -> Result<(), String> {
        let proposal = Proposal { actor: Actor::from(actor), command };
        let proposed = self.propose(vec![proposal], deadline).await;
        let outcomes = proposed.map_err(|error| error.to_string())?;
        let refused = outcomes.into_iter().find_map(|outcome| outcome.result.err());
        refused.map_or(Ok(()), |refusal| Err(refusal.to_string()))
    }

    /// What the data directory of this replica calls itself.
    #[must_use]
    pub fn nonce(&self) -> Option<&str> {
        self.0.host.identity.nonce.as_deref()
    }

    /// The members in the state, and which of them have started.
    pub fn claims(&self) -> BTreeMap<u64, bool> {
        let claimed = |member: &Known| (member.id, member.nonce.is_some());
        self.with_state(|state| state.members().map(claimed).collect())
    }

    /// Claims this replica's id for its data directory, once the cluster knows claims, and watches
    /// over it until `stop`: a replica whose id belongs to another directory, or to nobody any more,
    /// stops with a fault.
    pub async fn keep_claim(self, stop: CancellationToken) {
        let mut removed = None;
        while !stop.is_cancelled() && self.fault().is_none() {
            match self.standing() {
                Standing::Unclaimed(nonce) => {
                    // It says where it is as the others were told.
                    if let Some(peer) = self.0.view.peer(self.id()) {
                        let claim = ClaimMember { id: self.id(), nonce, peer };
                        let command = Command::ClaimMember(claim);
                        let said =
                            self.say(command, "replica", Instant::now() + CLAIM_TIMEOUT).await;
                        if let Err(why) = said {
                            tracing::debug!(why, "id not claimed yet");
                        }
                    }
                }
                Standing::Fine => removed = None,
                Standing::Removed => {
                    let since = *removed.get_or_insert_with(Instant::now);
                    let voter = self.0.view.get().voters.contains(&self.id());
                    if !voter || since.elapsed() > REMOVED_GRACE {
                        self.0.fault.set(removed_text(self.id()));
                    }
                }
                Standing::Taken => self.0.fault.set(taken_text(self.id())),
            }
            // Nothing is lost when the wait is cut short.
            _ = timeout(CLAIM_EVERY, stop.cancelled()).await;
        }
        // With a fault there is nothing to watch over; a task that ends before it is told to ends the program, which
        // may have to stay and say why it stopped.
        stop.cancelled().await;
    }

    fn standing(&self) -> Standing {
        let id = self.id();
        let Some(own) = self.nonce() else { return Standing::Fine };
        self.with_state(|state| match state.member(id).and_then(|member| member.nonce.as_deref()) {
            _ if state.version() < version::MEMBERS => Standing::Fine,
            _ if state.member_is_removed(id) => Standing::Removed,
            None => Standing::Unclaimed(own.into()),
            Some(nonce) if nonce == own => Standing::Fine,
            Some(_) => Standing::Taken,
        })
    }
}

/// How this replica's claim to its id stands.
enum Standing {
    Fine,
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

#[cfg(test)]
mod tests {
    use romana_statemachine::command::{AddMember, RaiseVersion};
    use romana_statemachine::{Entry, Index, Millis, Position, Revision, Term};

    use super::super::status::Role;
    use super::*;

    fn state(commands: Vec<Command>) -> State {
        let mut state = State::new();
        let raise = Command::RaiseVersion(RaiseVersion { version: version::MEMBERS });
        for (index, command) in (1..).zip([vec![raise], commands].concat()) {
            let proposals = vec![Proposal { actor: Actor::from("t"), command }];
            let entry = Entry { at: Millis(index), proposals };
            for outcome in state.apply(Position { index: Index(index), term: Term(1) }, &entry).0 {
                outcome.result.unwrap();
            }
        }
        state
    }

    fn add(peer: &str, replaces: Option<u64>) -> Command {
        Command::AddMember(AddMember { peer: peer.into(), floor: 3, replaces })
    }

    fn claim(id: u64) -> Command {
        let (nonce, peer) = (format!("n{id}"), format!("h{id}:1"));
        Command::ClaimMember(ClaimMember { id, nonce, peer })
    }

    fn remove(id: u64) -> Command {
        Command::RemoveMember(MemberRef { id })
    }

    fn raft(voters: &[u64], learners: &[u64]) -> Membership {
        let set = |ids: &[u64]| ids.iter().copied().collect();
        Membership { voters: set(voters), learners: set(learners), joint: false }
    }

    /// Everybody is healthy but `ill`; replica 1 leads.
    fn status(raft: &Membership, ill: &[u64], lag: u64) -> ClusterStatus {
        let members = raft.voters.iter().chain(&raft.learners).map(|id| MemberStatus {
            id: *id,
            api: String::new(),
            peer: String::new(),
            role: Role::Follower,
            healthy: !ill.contains(id),
            lag: if raft.learners.contains(id) { lag } else { 0 },
            claimed: true,
            problems: Vec::new(),
        });
        ClusterStatus {
            cluster_id: String::new(),
            leader: Some(1),
            term: Term(1),
            revision: Revision(1),
            members: members.collect(),
            held: None,
            clocks: None,
        }
    }

    fn voters(ids: &[u64]) -> Option<Change> {
        Some(Change::SetVoters(ids.iter().copied().collect()))
    }

    #[test]
    fn members_are_added_as_learners_and_vote_when_they_have_caught_up() {
        let known = [claim(1), claim(2), claim(3)];
        let added = [&known[..], &[add("h4:1", None)]].concat();
        let started = [&added[..], &[claim(4)]].concat();
        let learns = || raft(&[1, 2, 3], &[4]);
        let add4 = Some(Change::AddLearner { id: 4, peer: "h4:1".into() });
        for (case, commands, raft, ill, lag, next) in [
            ("nothing to do", &known[..], raft(&[1, 2, 3], &[]), &[][..], 0, None),
            ("new", &added, raft(&[1, 2, 3], &[]), &[], 0, add4.clone()),
            ("lost and found", &started, raft(&[1, 2, 3], &[]), &[], 0, add4),
            ("not started", &added, learns(), &[], 0, None),
            ("ill", &started, learns(), &[4], 0, None),
            ("behind", &started, learns(), &[], LAG_MAX + 1, None),
            ("caught up", &started, learns(), &[], LAG_MAX, voters(&[1, 2, 3, 4])),
            ("no majority of them", &started, learns(), &[2, 3], 0, None),
            ("a voter", &started, raft(&[1, 2, 3, 4], &[]), &[], 0, None),
        ] {
            let status = status(&raft, ill, lag);
            assert_eq!(next_change(&state(commands.to_vec()), &raft, &status), next, "{case}");
        }
        let half = Membership { joint: true, ..raft(&[1, 2, 3, 4], &[]) };
        let status = status(&half, &[], 0);
        assert_eq!(next_change(&state(started), &half, &status), voters(&[1, 2, 3, 4]));
    }

    #[test]
    fn members_leave_and_are_replaced() {
        let known = [claim(1), claim(2), claim(3)];
        let with = |more: &[Command]| [&known[..], more].concat();
        let all = || raft(&[1, 2, 3], &[]);
        let replaced = with(&[add("h3:1", Some(3)), claim(4)]);
        let leader = with(&[add("h1:1", Some(1)), claim(4)]);
        for (case, commands, raft, ill, next) in [
            ("a follower", with(&[remove(3)]), all(), &[][..], voters(&[1, 2])),
            ("the leader", with(&[remove(1)]), all(), &[2], Some(Change::HandOver(3))),
            ("alone", with(&[remove(1)]), all(), &[2, 3], None),
            ("gone", with(&[remove(3)]), raft(&[1, 2], &[]), &[], None),
            (
                "a learner",
                with(&[add("h4:1", None), remove(4)]),
                raft(&[1, 2, 3], &[4]),
                &[],
                Some(Change::DropLearner(4)),
            ),
            ("replaced", replaced.clone(), raft(&[1, 2, 3], &[4]), &[3], voters(&[1, 2, 4])),
            ("replaced, no majority", replaced.clone(), raft(&[1, 2, 3], &[4]), &[1, 2], None),
            ("to retire", replaced, raft(&[1, 2, 4], &[]), &[], Some(Change::Retire(3))),
            ("leads", leader, raft(&[1, 2, 3], &[4]), &[], Some(Change::HandOver(2))),
        ] {
            let status = status(&raft, ill, 0);
            assert_eq!(next_change(&state(commands), &raft, &status), next, "{case}");
        }
    }
}
