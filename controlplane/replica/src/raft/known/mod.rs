//! What a replica knows about Raft, the other replicas, the agents, the clocks and its own disk.

pub(super) mod clocks;
pub(super) mod heartbeats;
pub(super) mod leases;
pub(super) mod peers;
pub(super) mod positions;
pub(super) mod quorum;
pub(super) mod slow;
pub(super) mod view;
