//! What Raft is told about us: the types of its log, its nodes and its answers.

use std::fmt;

use bytes::Bytes;
use openraft::alias;
use romana_statemachine::Outcome;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// Our instance of Raft: at most one leader in a term.
    pub(crate) TypeConfig:
        D = Payload,
        R = Answers,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::raft::store::runtime::Runtime,
);

/// Raft itself, over our state machine.
pub(in crate::raft) type Raft = openraft::Raft<TypeConfig, crate::raft::store::machine::Machine>;
pub(in crate::raft) type LogId = alias::LogIdOf<TypeConfig>;
pub(in crate::raft) type LogEntry = alias::EntryOf<TypeConfig>;
pub(in crate::raft) type Vote = alias::VoteOf<TypeConfig>;
pub(in crate::raft) type Membership = alias::StoredMembershipOf<TypeConfig>;
pub(in crate::raft) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(in crate::raft) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(in crate::raft) type SnapshotOf =
    alias::SnapshotOf<TypeConfig, crate::raft::store::snapshot::SnapshotFile>;

/// The wire form of a [`romana_statemachine::Entry`]: encoded once, by the leader; decoded once, by
/// each replica's apply. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(pub(in crate::raft) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One outcome per command of the entry; none for entries of Raft's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answers(pub(in crate::raft) Vec<Outcome>);

/// A replica as the Raft membership knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// `host:port` of its peer listener.
    pub(in crate::raft) peer: String,
}
