//! # A replica
//!
//! One replica of the control plane: it replicates the log with the others, applies it to the state machine, and
//! holds the state, the history and the feed.
//!
//! ```text
//!   Replica::propose ─► raft ─► romana_storage::wal      proposals, durable on a majority
//!                        │ apply (romana_statemachine)
//!                        ├──► romana_storage::history    records, permanently ──► audit: who held what, when
//!                        └──► feed                       records, live
//!   backup: take, restore, recover after the loss of a majority      retention: what may be purged
//! ```
//!
//! Nothing here depends on HTTP: the API and the leader tasks are built on [`Replica`]. Only `raft` uses openraft,
//! and only one file of [`audit`] uses sled.
//!
//! Reading order: [`Replica`], then the laws in `raft/mod.rs`, [`feed`], [`audit`], [`backup`].

pub mod audit;
pub mod backup;
mod cancel;
pub mod cluster_time;
pub mod feed;
mod identity;
pub mod metrics;
mod pods;
pub mod purge;
mod raft;
pub mod retention;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cancel::{Cancel, CancelGuard};
pub use identity::{IdentityError, Owner, join, owner};
pub use pods::Pods;
pub use raft::{
    Agents, Change, Clocks, ClocksStatus, ClusterStatus, Evidence, Facts, FaultKind, Health,
    Leadership, MemberProblem, MemberStatus, Members, Membership, ProposeError, ReadError, Reads,
    Replica, ReplicaConfig, Role, Snapshots, StartError, TopicRevisions, TransferError, Tuning,
    Vips, WallClock, next_change, reseed,
};
