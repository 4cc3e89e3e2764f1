//! Messages between replicas, except append requests ([`crate::raft::store::codec`]). Encoded with postcard and
//! frozen by [`PROTOCOL`]: add new variants at the end.

use bytes::Bytes;
use openraft::raft::{TransferLeaderRequest, VoteRequest, VoteResponse};
use romana_statemachine::agent::{Heartbeat, HeartbeatAge, PodRef, RefusedAgent};
use romana_statemachine::lease::{LeaseLeft, VipAnswer, VipRenewal};
use romana_statemachine::name::SegmentId;
use romana_statemachine::{Digest, Outcome, Printable, Record, Revision, Term};
use serde::{Deserialize, Serialize};

use crate::raft::store::types::{SnapshotMeta, TypeConfig, Vote};
use crate::retention::{Beginning, CheckpointId};
use romana_api::audit::Proof;

/// Version of the protocol between replicas.
pub(in crate::raft) const PROTOCOL: u16 = 1;
const MAGIC: [u8; 4] = *b"ROMP";

/// Purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum Purpose {
    /// Append requests in one direction, results in the other, both in order.
    Append,
    /// [`PeerRequest`]s and [`PeerResponse`]s, numbered, in any order.
    Call,
    /// One snapshot. Used for followers that do not know [`Self::WatchedSnapshot`].
    Snapshot,
    /// One response: [`crate::raft::peer::facts::Facts`]. Unknown to the first release.
    Facts,
    /// One snapshot, during which the follower reports progress. Unknown to releases with log version 3 and before.
    WatchedSnapshot,
    /// Readings of the peer's wall clock: [`crate::raft::known::clocks`]. Unknown to releases with log version 3 and
    /// before.
    Clock,
    /// Exchange of positions, and of what each side remembers about the other: [`crate::raft::known::positions`]. Unknown
    /// to releases with log version 3 and before.
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

    /// Why replica `id` of `cluster` refuses the sender, or `None`; `member` tells whether an id is a member.
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

/// Reply to a [`Handshake`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum HandshakeReply {
    /// Accepted. Carries the URL of this replica's API.
    Accept { api: String },
    /// Refused; the connection is closed.
    Refuse { why: String },
}

/// Result of one append request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum Appended {
    Upto(Option<crate::raft::store::types::LogId>),
    Conflict(crate::raft::store::types::LogId),
    HigherVote(Vote),
}

/// A request to another replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum PeerRequest {
    /// Liveness check.
    Ping,
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// To the leader: commit these proposals, within this many milliseconds.
    Propose {
        batch: Batch,
        within_ms: u64,
    },
    /// Asks the leader for its read index (linearizable reads).
    ReadIndex,
    Status,
    /// The digest of the history at this revision.
    DigestAt(Revision),
    /// To the leader: transfer leadership to this voter.
    HandOver(u64),
    /// The checkpoint at this revision, created if necessary. Since version 2.
    CheckpointAt(Revision),
    /// Read and fold the whole history, at least up to this revision. Since version 2.
    Prove(Revision),
    /// The checkpoint at this revision, if it exists. Since version 2.
    StandingAt(Revision),
    /// To the leader: heartbeats of agents. Since version 3.
    Heartbeats(Vec<Heartbeat>),
    /// To the leader: request the last heartbeat of each agent. Since version 3.
    Heard,
    /// To the leader: agents that were refused. Since version 4.
    Refused(Vec<RefusedAgent>),
    /// To the leader: request the agents that were refused recently. Since version 4.
    RefusedAgents,
    /// Where the history begins. Since version 4.
    Beginning,
    /// To the leader: request the segment of a pod. Since version 4.
    PodSegment(PodRef),
    /// To the leader: a host renews its leases of VIPs. Since version 4.
    RenewVips(VipRenewal),
    /// To the leader: request the grants of VIPs. Since version 4.
    VipLeases,
}

/// A response to a [`PeerRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum PeerResponse {
    Pong,
    Vote(VoteResponse<TypeConfig>),
    Transferred(openraft::raft::TransferLeaderResponse<TypeConfig>),
    Proposed(Result<Vec<Outcome>, NotCommitted>),
    ReadIndex(Result<u64, String>),
    Status(PeerStatus),
    DigestAt(Option<Digest>),
    /// The request failed.
    Failed(String),
    /// Whether the transfer was started, or why not.
    HandedOver(Result<(), String>),
    /// The checkpoint's digests, or why there is none.
    CheckpointAt(Result<CheckpointId, String>),
    Proved(Result<Proof, String>),
    StandingAt(Option<CheckpointId>),
    /// All heartbeats that the leader has; `None`: it no longer leads.
    Heard(Option<Vec<HeartbeatAge>>),
    /// All refused agents that the leader knows; `None`: it no longer leads.
    RefusedAgents(Option<Vec<RefusedAgent>>),
    /// Where the history begins, or why that is unknown.
    Beginning(Result<Beginning, String>),
    /// The segment of a pod, if the leader knows the pod; `None`: it no longer leads.
    PodSegment(Option<Option<SegmentId>>),
    /// What the host is granted, or why the leader cannot tell.
    VipsRenewed(Result<VipAnswer, String>),
    /// The grants that may not be over; `None`: it no longer leads.
    VipLeases(Option<Vec<LeaseLeft>>),
}

impl PeerResponse {
    /// Error text for a response of the wrong kind.
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
            Self::PodSegment(_) => "the segment of a pod",
            Self::VipsRenewed(_) => "an answer to a renewal",
            Self::VipLeases(_) => "leases",
        };
        format!("the answer does not fit the question: it is {of}")
    }
}

/// Encoded proposals: `count` wire forms, concatenated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) struct Batch {
    pub(in crate::raft) count: u32,
    pub(in crate::raft) bytes: Bytes,
}

/// Why proposals were not committed, or are not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::raft) enum NotCommitted {
    /// Nothing happened: this replica does not lead.
    NotLeader,
    /// Nothing happened, for this reason.
    Unavailable(String),
    /// Nothing happened: the queue is full.
    Busy,
    /// The proposals may be committed; the reason why this is unknown.
    Unknown(String),
}

/// Status that a replica reports about itself.
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
    /// The next bytes of the snapshot file.
    Chunk(Bytes),
    End,
    /// The follower's history ends before the leader's begins: restart it after this record. Sent before all records,
    /// and only if a retention was set, which implies version 2.
    Restart {
        revision: Revision,
        digest: Digest,
    },
}

/// Follower to leader, on a snapshot connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::raft) enum SnapshotReply {
    /// Reply to `Begin`: where the follower's history ends.
    History {
        revision: Revision,
        digest: Digest,
    },
    /// Reply to `End`: the follower's vote.
    Installed {
        vote: Vote,
    },
    Failed(String),
    /// Sent after `History`, every second until the follower is done, on a watched connection only.
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
