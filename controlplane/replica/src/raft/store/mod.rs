//! Storage under Raft: its types and their encoding, the log, the state machine and its snapshots; and access to the
//! same files while no replica runs (`seed`, `stored`).

pub(super) mod codec;
pub(super) mod log;
pub(super) mod machine;
pub(super) mod runtime;
pub(super) mod seed;
pub(super) mod snapshot;
pub(crate) mod stored;
pub(super) mod types;
