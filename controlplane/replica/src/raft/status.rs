//! What a replica says about its cluster.

use romana_api::cluster::Held;
pub use romana_api::cluster::{ClusterStatus, MemberProblem, MemberStatus, Role};
use romana_statemachine::limits::NAMES_LISTED_MAX;
use romana_statemachine::{State, plural};

/// Why nothing fresh is allocated, if that is so.
pub(super) fn held(state: &State) -> Option<Held> {
    let held = state.held()?;
    Some(Held {
        since: held.since,
        waiting: held.waiting.len() as u64,
        hosts: held.waiting.iter().take(NAMES_LISTED_MAX).cloned().collect(),
    })
}

/// Something that is wrong with a member, whose remedy is a new member in its place.
pub(super) fn replaceable(code: &str, what: String, id: u64) -> MemberProblem {
    MemberProblem { code: code.into(), what, remedy: format!("romana cluster replace {id}") }
}

/// Why proposals are not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened. Trying again is safe.
    #[error("the proposal was not made: {why}")]
    Unavailable { why: String },
    /// Nothing happened: too many proposals wait. Trying again later is safe.
    #[error("too many proposals are waiting")]
    Busy,
    /// The proposals may be committed, now or later. All of them or none.
    #[error("the outcome of the proposal is not known: {why}")]
    Unknown { why: String },
    /// Nothing happened: more than fits one log entry.
    #[error(
        "too many or too long for one proposal ({commands_max} commands, {bytes_max} bytes): {}",
        plural(*.commands, "command")
    )]
    TooLarge {
        /// Commands in the proposal.
        commands: usize,
        commands_max: usize,
        bytes_max: usize,
    },
}

/// Why a read cannot be linearizable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum answered in time.
    #[error("the read could not be confirmed: {why}")]
    Unavailable { why: String },
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
    Unavailable { why: String },
}
