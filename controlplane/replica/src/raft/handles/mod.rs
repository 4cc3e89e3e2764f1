//! The API of a [`Replica`], grouped by subject: each handle borrows the replica and has a few methods.
//!
//! ```text
//!   reads        linearize, recovered; applied and topics, to watch      clocks     log time, and wrong clocks
//!   health       readiness and fault                                     agents     heartbeats, pods
//!   members      status, changes, this replica's claim                   snapshots  the newest, and a new one
//!   leadership   watch, transfer, hand over                              evidence   checkpoints, proofs
//!   vips         leases of virtual IPs
//! ```

mod agents;
mod clocks;
mod evidence;
mod health;
mod leadership;
mod members;
mod reads;
mod snapshots;
mod vips;

pub use agents::Agents;
pub use clocks::Clocks;
pub use evidence::Evidence;
pub use health::Health;
pub use leadership::Leadership;
pub use members::Members;
pub use reads::Reads;
pub use snapshots::Snapshots;
pub use vips::Vips;

use crate::raft::{Replica, Shared};

impl Replica {
    /// What this replica has applied, and whether that is enough for a reader.
    #[must_use]
    pub fn reads(&self) -> Reads<'_> {
        Reads(&self.0)
    }

    /// Readiness and fault.
    #[must_use]
    pub fn health(&self) -> Health<'_> {
        Health(&self.0)
    }

    /// The members of the cluster.
    #[must_use]
    pub fn members(&self) -> Members<'_> {
        Members(&self.0)
    }

    /// Leadership, and its transfer.
    #[must_use]
    pub fn leadership(&self) -> Leadership<'_> {
        Leadership(&self.0)
    }

    /// Log time, and the members' clocks.
    #[must_use]
    pub fn clocks(&self) -> Clocks<'_> {
        Clocks(&self.0)
    }

    /// Checkpoints, history proofs and history beginnings of the replicas.
    #[must_use]
    pub fn evidence(&self) -> Evidence<'_> {
        Evidence(&self.0)
    }

    /// Heartbeats of the host agents, and refused agents.
    #[must_use]
    pub fn agents(&self) -> Agents<'_> {
        Agents(&self.0)
    }

    /// Leases of virtual IPs.
    #[must_use]
    pub fn vips(&self) -> Vips<'_> {
        Vips(&self.0)
    }

    /// Snapshots of the state.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots<'_> {
        Snapshots(&self.0)
    }
}

/// Helpers that several handles share.
impl Shared {
    pub(in crate::raft) fn health(&self) -> Health<'_> {
        Health(self)
    }

    pub(in crate::raft) fn members(&self) -> Members<'_> {
        Members(self)
    }

    pub(in crate::raft) fn agents(&self) -> Agents<'_> {
        Agents(self)
    }

    pub(in crate::raft) fn leadership(&self) -> Leadership<'_> {
        Leadership(self)
    }
}
