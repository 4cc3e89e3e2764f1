//! What replicas say to each other, append requests aside ([`crate::raft::store::codec`]). Postcard: frozen by
//! [`PROTOCOL`], add variants at the end.

use bytes::Bytes;
use openraft::raft::{TransferLeaderRequest, VoteRequest, VoteResponse};
use romana_statemachine::agent::{Heartbeat, HeartbeatAge, RefusedAgent};
use romana_statemachine::{Digest, Outcome, Printable, Record, Revision, Term};
use serde::{Deserialize, Serialize};

use crate::raft::store::types::{SnapshotMeta, TypeConfig, Vote};
use crate::retention::{Beginning, CheckpointId};
use romana_api::audit::Proof;

/// Version of everything between replicas.
pub(in crate::raft) const PROTOCOL: u16 = 1;
const MAGIC: [u8; 4] = *b"ROMP";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum Purpose {
    /// Append requests one way, results the other, both in order.
    Append,
    /// [`PeerRequest`]s and [`PeerResponse`]s, numbered, in any order.
    Call,
    /// One snapshot. What leaders ask for whose followers do not know [`Self::WatchedSnapshot`].
    Snapshot,
    /// One answer: [`crate::raft::peer::facts::Facts`]. Not known to the first release.
    Facts,
    /// One snapshot, and the follower says that it is at work. Not known to releases with version 3 of
    /// the log and before.
    WatchedSnapshot,
    /// Readings of the peer's wall clock: [`crate::raft::known::clocks`]. Not known to releases with version 3 of the
    /// log and before.
    Clock,
    /// What this replica knows that the other one held, and what that one holds: [`crate::raft::known::held`]. Not known to
    /// releases with version 3 of the log and before.
    Position,
}

/// The first frame of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) struct Handshake {
    magic: [u8; 4],
    pub(in crate::raft) protocol: u16,
    pub(in crate::raft) cluster: String,
    pub(in crate::raft) from: u64,
    pub(in crate::raft) to: u64,
    pub(in crate::raft) api: String,
    pub(in crate::raft) purpose: Purpose,
}

impl Handshake {
    pub(in crate::raft) fn new(
        cluster: String,
        from: u64,
        to: u64,
        api: String,
        purpose: Purpose,
    ) -> Self {
        Self { magic: MAGIC, protocol: PROTOCOL, cluster, from, to, api, purpose }
    }

    /// Why a replica that is `id` of `cluster`, among members for which `member` holds, does not
    /// talk to the sender.
    pub(in crate::raft) fn refuse(
        &self,
        cluster: &str,
        id: u64,
        member: impl FnOnce(u64) -> bool,
    ) -> Option<String> {
        let from = self.from;
        if self.magic != MAGIC {
            return Some("it does not speak the protocol of Romana's replicas".into());
        }
        if self.protocol != PROTOCOL {
            let theirs = self.protocol;
            return Some(format!("it speaks protocol {theirs}, this replica speaks {PROTOCOL}"));
        }
        if self.cluster != cluster {
            let theirs = Printable(&self.cluster);
            return Some(format!(
                "it belongs to cluster {theirs}, this is cluster {cluster}: compare \
                 --initial-cluster and --cluster-token of both, and whether both were restored \
                 from the same backup"
            ));
        }
        if self.to != id {
            let to = self.to;
            return Some(format!(
                "it expects replica {to} at this address, and this is replica {id}: compare \
                 --id and --initial-cluster of both"
            ));
        }
        if from == id {
            return Some(format!("it says it is replica {id}, which is this one"));
        }
        (!member(from)).then(|| format!("replica {from} is not a member of this cluster"))
    }
}

/// The answer to a [`Handshake`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum HandshakeReply {
    /// Go on. Where this replica's API is.
    Accept { api: String },
    /// The connection is closed, and why.
    Refuse { why: String },
}

/// Result of one append request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum Appended {
    Upto(Option<crate::raft::store::types::LogId>),
    Conflict(crate::raft::store::types::LogId),
    HigherVote(Vote),
}

/// A question to another replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum PeerRequest {
    /// Are you there?
    Ping,
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// To the leader: commit these, within so many milliseconds.
    Propose {
        batch: Batch,
        within_ms: u64,
    },
    /// To the leader: up to where must I have applied to know everything acknowledged until now?
    ReadIndex,
    Status,
    /// The digest of the history at this revision.
    DigestAt(Revision),
    /// To the leader: let this voter lead.
    HandOver(u64),
    /// The checkpoint at this revision. Since version 2.
    CheckpointAt(Revision),
    /// Read and fold the whole history, up to this revision at least. From version 2 on.
    Prove(Revision),
    /// The checkpoint at this revision, if there is one. From version 2 on.
    StandingAt(Revision),
    /// To the leader: what agents have said. From version 3 on.
    Heartbeats(Vec<Heartbeat>),
    /// To the leader: what agents said last. From version 3 on.
    Heard,
    /// To the leader: agents that were refused. From version 4 on.
    Refused(Vec<RefusedAgent>),
    /// To the leader: agents that were refused lately. From version 4 on.
    RefusedAgents,
    /// Where the history begins. From version 4 on.
    Beginning,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum PeerResponse {
    Pong,
    Vote(VoteResponse<TypeConfig>),
    Transferred(openraft::raft::TransferLeaderResponse<TypeConfig>),
    Proposed(Result<Vec<Outcome>, NotCommitted>),
    ReadIndex(Result<u64, String>),
    Status(PeerStatus),
    DigestAt(Option<Digest>),
    /// The question could not be answered.
    Failed(String),
    /// Asked for, or why not.
    HandedOver(Result<(), String>),
    /// Its digests, or why there is none.
    CheckpointAt(Result<CheckpointId, String>),
    Proved(Result<Proof, String>),
    StandingAt(Option<CheckpointId>),
    /// All heartbeats that the leader has; `None`: it does not lead any more.
    Heard(Option<Vec<HeartbeatAge>>),
    /// All refused agents that the leader knows of; `None`: it does not lead any more.
    RefusedAgents(Option<Vec<RefusedAgent>>),
    /// Where it begins, or why that is not known.
    Beginning(Result<Beginning, String>),
}

impl PeerResponse {
    /// What to say of an answer that does not fit the question.
    pub(in crate::raft) fn misfit(&self) -> String {
        let of = match self {
            Self::Failed(why) => return why.clone(),
            Self::Pong => "a sign of life",
            Self::Vote(_) => "a vote",
            Self::Transferred(_) => "a transfer of leadership",
            Self::Proposed(_) => "the outcome of proposals",
            Self::ReadIndex(_) => "a read index",
            Self::Status(_) => "a status",
            Self::DigestAt(_) => "a digest",
            Self::HandedOver(_) => "the outcome of a hand-over",
            Self::CheckpointAt(_) | Self::StandingAt(_) => "the digests of a checkpoint",
            Self::Proved(_) => "a proof of the history",
            Self::Heard(_) => "heartbeats",
            Self::RefusedAgents(_) => "agents that were refused",
            Self::Beginning(_) => "where a history begins",
        };
        format!("the answer does not fit the question: it is {of}")
    }
}

/// Encoded proposals: `count` wire forms after each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Batch {
    pub(in crate::raft) count: u32,
    pub(in crate::raft) bytes: Bytes,
}

/// Why proposals were not committed, or are not known to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum NotCommitted {
    /// Nothing happened: somebody else leads, or nobody.
    NotLeader,
    /// Nothing happened, and why.
    Unavailable(String),
    /// Nothing happened: the queue is full.
    Busy,
    /// They may be committed, and why that is not known.
    Unknown(String),
}

/// What a replica says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) struct PeerStatus {
    pub(in crate::raft) api: String,
    pub(in crate::raft) term: Term,
    pub(in crate::raft) leader: Option<u64>,
    pub(in crate::raft) revision: Revision,
    pub(in crate::raft) applied: u64,
    pub(in crate::raft) digest: Digest,
    pub(in crate::raft) ready: bool,
    pub(in crate::raft) fault: Option<String>,
}

/// Leader to follower, on a snapshot connection, in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum SnapshotPart {
    Begin {
        vote: Vote,
        meta: SnapshotMeta,
        revision: Revision,
        bytes: u64,
    },
    /// The next records that the follower's history lacks.
    Records(Vec<Record>),
    /// The next bytes of the file.
    Chunk(Bytes),
    End,
    /// The follower's history ends before the leader's begins: begin anew after this record. Comes
    /// before all records, and only where a retention was set, which means version 2.
    Restart {
        revision: Revision,
        digest: Digest,
    },
}

/// Follower to leader, on a snapshot connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum SnapshotReply {
    /// To `Begin`: where the follower's history ends.
    History {
        revision: Revision,
        digest: Digest,
    },
    /// To `End`: the follower's vote.
    Installed {
        vote: Vote,
    },
    Failed(String),
    /// After `History`, every second until it is done. Only where it is watched.
    Working,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_refused_with_a_reason() {
        let hello = |cluster: &str, from, to| {
            Handshake::new(cluster.into(), from, to, "http://a".into(), Purpose::Call)
        };
        let why = |hello: Handshake| hello.refuse("c1", 1, |id| id <= 3);
        assert_eq!(why(hello("c1", 2, 1)), None);
        assert!(why(hello("c2", 2, 1)).unwrap().contains("cluster c2"));
        assert!(why(hello("c1", 2, 3)).unwrap().contains("expects replica 3"));
        assert!(why(hello("c1", 1, 1)).unwrap().contains("which is this one"));
        assert!(why(hello("c1", 4, 1)).unwrap().contains("not a member"));
        let old = Handshake { protocol: 0, ..hello("c1", 2, 1) };
        assert!(why(old).unwrap().contains("protocol 0"));
    }
}
