//! openraft's type configuration: the types of the log, the nodes and the responses.

use std::fmt;

use bytes::Bytes;
use openraft::alias;
use romana_statemachine::Outcome;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// Our configuration of Raft: at most one leader per term.
    pub(crate) TypeConfig:
        D = Payload,
        R = Answers,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::raft::store::runtime::Runtime,
);

pub(in crate::raft) type LogId = alias::LogIdOf<TypeConfig>;
pub(in crate::raft) type LogEntry = alias::EntryOf<TypeConfig>;
pub(in crate::raft) type Vote = alias::VoteOf<TypeConfig>;
pub(in crate::raft) type Membership = alias::StoredMembershipOf<TypeConfig>;
pub(in crate::raft) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(in crate::raft) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// The wire form of a [`romana_statemachine::Entry`]: encoded once, by the leader; decoded once on each replica, when
/// it is applied. Clones share the bytes.
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

/// One outcome per command of the entry; none for Raft's own entries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answers(pub(in crate::raft) Vec<Outcome>);

/// A replica in Raft's membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// `host:port` of its peer listener.
    pub(in crate::raft) peer: String,
}
