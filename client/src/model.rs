//! Replicas' answers in a form that differs from [`romana_api`]'s. Unknown members are ignored and missing
//! ones get defaults: a client may be older or newer than the cluster.

pub use romana_api::Page;
use romana_api::batch::BatchItem;
pub use romana_api::block::Block;
pub use romana_api::cluster::{
    AllocationHold, ClocksStatus, ClusterStatus, DigestAt, MemberClock, MemberProblem,
    MemberStatus, NewMember, Role,
};
pub use romana_statemachine::{Allocation, Host};
use romana_statemachine::{Answer, Revision};

use crate::error::ApiError;

/// The result of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Revision after the command; 0 if the replica did not give it.
    pub revision: Revision,
    /// `false`: the state was already as requested.
    pub changed: bool,
    /// The address, if the command allocates one.
    pub allocation: Option<Allocation>,
}

/// The outcome of one command of a batch. `None` if the element has neither an answer nor an error.
pub(crate) fn outcome(item: BatchItem) -> Option<Result<Done, ApiError>> {
    let BatchItem { revision, answer, error } = item;
    if let Some(error) = error {
        return Some(Err(error.with_status_of_code()));
    }
    Some(Ok(match answer? {
        Answer::Done { changed } => Done { revision, changed, allocation: None },
        Answer::Address { allocation, fresh } => {
            Done { revision, changed: fresh, allocation: Some(allocation) }
        }
    }))
}
