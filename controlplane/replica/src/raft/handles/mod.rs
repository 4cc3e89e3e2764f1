//! What a [`Replica`] can be asked, by what it is about: each handle borrows the replica and has a few methods.
//!
//! ```text
//!   reads        linearize, recovered; applied and topics, to be watched      clocks     log time, and who is wrong
//!   health       ready or not, and the fault                                   agents     heartbeats
//!   members      status, steps of change, this replica's claim                 snapshots  the newest, and a new one
//!   leadership   watch, transfer, hand over                                    evidence   checkpoints, proofs
//! ```

mod agents;
mod clocks;
mod evidence;
mod health;
mod leadership;
mod members;
mod reads;
mod snapshots;

pub use agents::Agents;
pub use clocks::Clocks;
pub use evidence::Evidence;
pub use health::Health;
pub use leadership::Leadership;
pub use members::Members;
pub use reads::Reads;
pub use snapshots::Snapshots;

use crate::raft::{Replica, Shared};

impl Replica {
    /// What it has applied, and whether that is as far as a reader needs.
    #[must_use]
    pub fn reads(&self) -> Reads<'_> {
        Reads(&self.0)
    }

    /// Whether it can serve, and if not, why.
    #[must_use]
    pub fn health(&self) -> Health<'_> {
        Health(&self.0)
    }

    /// The members of the cluster.
    #[must_use]
    pub fn members(&self) -> Members<'_> {
        Members(&self.0)
    }

    /// Whether it leads, and who shall instead.
    #[must_use]
    pub fn leadership(&self) -> Leadership<'_> {
        Leadership(&self.0)
    }

    /// The time, as far as the clocks agree.
    #[must_use]
    pub fn clocks(&self) -> Clocks<'_> {
        Clocks(&self.0)
    }

    /// What the replicas can show of the past.
    #[must_use]
    pub fn evidence(&self) -> Evidence<'_> {
        Evidence(&self.0)
    }

    /// What the agents of the hosts have said.
    #[must_use]
    pub fn agents(&self) -> Agents<'_> {
        Agents(&self.0)
    }

    /// Snapshots of the state.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots<'_> {
        Snapshots(&self.0)
    }
}

/// Those that handles need of each other.
impl Shared {
    pub(in crate::raft) fn health(&self) -> Health<'_> {
        Health(self)
    }

    pub(in crate::raft) fn members(&self) -> Members<'_> {
        Members(self)
    }

    pub(in crate::raft) fn leadership(&self) -> Leadership<'_> {
        Leadership(self)
    }
}
