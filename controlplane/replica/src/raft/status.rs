//! Status of the cluster as a replica reports it, and the errors of its handles.

use std::path::Path;

use romana_api::cluster::AllocationHold;
pub use romana_api::cluster::{ClusterStatus, MemberProblem, MemberStatus, Role};
use romana_daemon::problems::Coded;
use romana_statemachine::limits::NAMES_LISTED_MAX;
use romana_statemachine::{State, plural};

/// Why allocation of fresh addresses is on hold, if it is.
pub(super) fn held(state: &State) -> Option<AllocationHold> {
    let held = state.held()?;
    Some(AllocationHold {
        since: held.since,
        waiting: held.waiting.len() as u64,
        hosts: held.waiting.iter().take(NAMES_LISTED_MAX).cloned().collect(),
    })
}

/// A problem of a leader task, as a problem of the member on which it runs.
pub(super) fn of_task(problem: Coded) -> MemberProblem {
    let Coded { part, code, what } = problem;
    MemberProblem {
        code: code.into(),
        what: format!("leader task {part}: {what}"),
        remedy: "the leader tries again by itself; if it stays, look at its log".into(),
    }
}

/// A problem of a member that is solved by replacing the member.
pub(super) fn replaceable(code: &str, what: String, id: u64) -> MemberProblem {
    MemberProblem { code: code.into(), what, remedy: format!("romana cluster replace {id}") }
}

/// The problem of a replica that started without a file that guards others.
pub(super) fn file_missing(file: &Path, id: u64) -> MemberProblem {
    MemberProblem {
        code: "FileMissing".into(),
        what: format!(
            "{} was missing or damaged at the start, beside existing data: if other files were lost \
             with it, that was not noticed; it is written again, and reported until the next start",
            file.display()
        ),
        remedy: format!(
            "find out what removed it; if it removed more: romana cluster replace {id}"
        ),
    }
}

/// Why proposals were not committed, or are not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened. A retry is safe.
    #[error("the proposal was not made: {why}")]
    Unavailable { why: String },
    /// Nothing happened: too many proposals are waiting. A later retry is safe.
    #[error("too many proposals are waiting")]
    Busy,
    /// The proposals may be committed, now or later: all of them or none.
    #[error("the outcome of the proposal is not known: {why}")]
    Unknown { why: String },
    /// Nothing happened: the proposals exceed one log entry.
    #[error(
        "too many or too long for one proposal ({commands_max} commands, {bytes_max} bytes): {}",
        plural(*.commands, "command")
    )]
    TooLarge { commands: usize, commands_max: usize, bytes_max: usize },
}

/// Why a read cannot be linearized.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum answered in time.
    #[error("the read could not be confirmed: {why}")]
    Unavailable { why: String },
}

/// Why leadership was not transferred.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The target is not a voter.
    #[error("replica {to} is not a voting member")]
    NotVoter { to: u64 },
    /// There is no leader, or it does not answer.
    #[error("leadership was not handed over: {why}")]
    Unavailable { why: String },
}
