//! # A replica
//!
//! One of the three: it keeps the log with the others, decides by the state machine, and has the state, the history
//! and the feed.
//!
//! ```text
//!   Replica::propose ─► raft ─► romana_storage::wal      what was asked, durable on a majority
//!                        │ apply (romana_statemachine)
//!                        ├──► romana_storage::history    what happened, for good ──► audit: who had what, when
//!                        └──► feed                       what happened, now
//!   backup: take one, restore one, recover what a lost majority left      retention: what may go
//! ```
//!
//! Nothing here knows HTTP: a [`Replica`] is what the API and the leader tasks stand on. openraft is known to
//! `raft` alone, sled to one file of [`audit`].
//!
//! Reading order: [`Replica`], then the laws in `raft/mod.rs`, [`feed`], [`audit`], [`backup`].

pub mod audit;
pub mod backup;
mod cancel;
pub mod cluster_time;
pub mod feed;
mod identity;
pub mod metrics;
pub mod purge;
mod raft;
pub mod retention;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cancel::{Cancel, CancelGuard};
pub use identity::{IdentityError, Owner, join, owner};
pub use raft::{
    Agents, Change, Clocks, ClocksStatus, ClusterStatus, Evidence, Facts, FaultKind, Health,
    Leadership, MemberProblem, MemberStatus, Members, Membership, Problems, ProposeError,
    ReadError, Reads, Replica, ReplicaConfig, Role, Snapshots, StartError, TopicRevisions,
    TransferError, Tuning, WallClock, next_change, reseed,
};
