//! What a replica says about its cluster.

use romana_statemachine::{Revision, Term, plural};
use serde::Serialize;

/// The cluster as one replica sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// Id of the cluster: derived from its initial peers and token.
    pub cluster_id: String,
    /// Who leads, if that is known.
    pub leader: Option<u64>,
    /// The Raft term.
    pub term: Term,
    /// Revision of the asked replica.
    pub revision: Revision,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
}

impl ClusterStatus {
    /// The healthy follower that is furthest: who should lead next.
    #[must_use]
    pub fn successor(&self) -> Option<u64> {
        let followers = self.members.iter().filter(|member| member.role == Role::Follower);
        let healthy = followers.filter(|member| member.healthy);
        healthy.min_by_key(|member| (member.lag, member.id)).map(|member| member.id)
    }
}

/// One member, as it said itself not long ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// URL of its API; empty until it was heard of.
    pub api: String,
    /// Its peer address.
    pub peer: String,
    /// What it does.
    pub role: Role,
    /// Whether it answered in the last one and a half seconds, is ready and has no fault.
    pub healthy: bool,
    /// Log entries that it is behind the one that is furthest.
    pub lag: u64,
    /// Whether its data directory has claimed the id: `false` until it has started once.
    pub claimed: bool,
    /// What is wrong with it, as far as the asked replica knows.
    pub problems: Vec<MemberProblem>,
}

/// Something that is wrong with a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberProblem {
    /// A stable code.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What mends it.
    pub mend: String,
}

impl MemberProblem {
    /// One that a new member in its place mends.
    pub(super) fn new(code: &str, what: String, id: u64) -> Self {
        Self { code: code.into(), what, mend: format!("romana cluster replace {id}") }
    }
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes and follows.
    Follower,
    /// Follows only.
    Learner,
}

/// Why proposals are not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened. Trying again is safe.
    #[error("the proposal was not made: {why}")]
    Unavailable {
        /// Why.
        why: String,
    },
    /// Nothing happened: too many proposals wait. Trying again later is safe.
    #[error("too many proposals are waiting")]
    Busy,
    /// The proposals may be committed, now or later. All of them or none.
    #[error("the outcome of the proposal is not known: {why}")]
    Unknown {
        /// Why.
        why: String,
    },
    /// Nothing happened: more than fits one log entry.
    #[error(
        "too many or too long for one proposal ({commands_max} commands, {bytes_max} bytes): {}",
        plural(*.commands, "command")
    )]
    TooLarge {
        /// Commands in the proposal.
        commands: usize,
        /// Most commands.
        commands_max: usize,
        /// Most bytes.
        bytes_max: usize,
    },
}

/// Why a read cannot be linearizable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum answered in time.
    #[error("the read could not be confirmed: {why}")]
    Unavailable {
        /// Why.
        why: String,
    },
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The target does not vote.
    #[error("replica {to} is not a voting member")]
    NotVoter {
        /// The target.
        to: u64,
    },
    /// Nobody leads, or the leader does not answer.
    #[error("leadership was not handed over: {why}")]
    Unavailable {
        /// Why.
        why: String,
    },
}
