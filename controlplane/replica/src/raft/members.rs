//! Membership reconciliation: which change of Raft's membership is due next, and how it is performed.
//!
//! The state says who is a member; Raft's membership follows it, one change at a time:
//!
//! ```text
//!   AddMember ─► learner ─► (it starts: ClaimMember) ─► caught up ─► voter, in place of `replaces`
//!   RemoveMember ─► (if it leads: hand over) ─► removed from Raft's membership
//! ```

use std::collections::BTreeSet;

use romana_statemachine::{Member as Known, State};

use crate::raft::status::{ClusterStatus, MemberStatus};

/// A learner may become a voter when it lags by at most this many entries.
const LAG_MAX: u64 = 1000;

/// Raft's membership as the leader knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters; during a joint change, those of the old and the new membership.
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    /// A joint change is in progress.
    pub joint: bool,
}

/// One step towards the membership in the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replicate to a new member.
    AddLearner { id: u64, peer: String },
    /// Set the voters to exactly these; other voters leave.
    SetVoters(BTreeSet<u64>),
    /// Stop replicating to a learner.
    DropLearner(u64),
    /// Hand over leadership, because this replica is to leave.
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

/// The next step, as seen by the leader; `None`: Raft's membership matches the state.
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
    // A member whose successor already votes only waits for its id to be retired.
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
        // Never change to a membership without a healthy quorum: wait until enough members are healthy.
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

/// The most advanced healthy voter.
fn successor(status: &ClusterStatus, among: &BTreeSet<u64>) -> Option<u64> {
    let healthy = among.iter().filter_map(|id| of(status, *id)).filter(|member| member.healthy);
    healthy.min_by_key(|member| (member.lag, member.id)).map(|member| member.id)
}

#[cfg(test)]
mod tests {
    use romana_statemachine::command::{AddMember, ClaimMember, MemberRef, RaiseVersion};
    use romana_statemachine::{
        Actor, Command, Entry, Index, Millis, Position, Proposal, Revision, Term, version,
    };

    use super::*;
    use crate::raft::status::Role;

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

    /// All members are healthy except `ill`; replica 1 leads.
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
