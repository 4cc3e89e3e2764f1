//! What a replica knows: of Raft, of the other replicas, of the agents, of the clocks, of its own disk.

pub(super) mod clocks;
pub(super) mod heartbeats;
pub(super) mod held;
pub(super) mod peers;
pub(super) mod problems;
pub(super) mod quorum;
pub(super) mod slow;
pub(super) mod topics;
pub(super) mod view;
