//! What Raft stands on: its types, their bytes, the log, the state machine and its snapshots; and the same files while
//! nothing runs (`seed`, `stored`).

pub(super) mod codec;
pub(super) mod log;
pub(super) mod machine;
pub(super) mod runtime;
pub(super) mod seed;
pub(super) mod snapshot;
pub(crate) mod stored;
pub(super) mod types;
