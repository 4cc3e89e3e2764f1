//! What replicas answer, as far as the client reads it. Unknown fields are ignored and missing ones
//! get defaults: a client may be older or newer than the cluster.

use ipnet::IpNet;
use romana_statemachine::name::{HostName, NetworkName, SegmentId, TenantId};
pub use romana_statemachine::{Allocation, Host};
use romana_statemachine::{Answer, Digest, Millis, Revision};
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Revision that the list was read at.
    #[serde(default)]
    pub revision: Revision,
    /// Where to go on; absent on the last page.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Of answers about the past: the oldest that is kept. Of what was before, nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Oldest>,
}

/// Where the history begins that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oldest {
    /// The revision.
    pub revision: Revision,
    /// When it was decided.
    pub at: Millis,
}

/// `GET /v1/cluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Identity of the cluster.
    #[serde(default)]
    pub cluster_id: String,
    /// Id of the leader, if the replica knows one.
    #[serde(default)]
    pub leader: Option<u64>,
    /// Raft term.
    #[serde(default)]
    pub term: u64,
    /// Revision of the replica that answered.
    #[serde(default)]
    pub revision: Revision,
    /// The replicas.
    pub members: Vec<Member>,
    /// Why nothing fresh is allocated, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// What the replicas' clocks show; `None` from a cluster that does not say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clocks: Option<Clocks>,
}

/// What the replicas' wall clocks show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clocks {
    /// The time that entries of the log are stamped with.
    pub log_time: Millis,
    /// Whether a majority of the clocks agree.
    pub agreed: bool,
    /// How far log time is ahead of what they agree on, or behind it (negative), milliseconds.
    pub log_ahead_ms: i64,
    /// The clocks that are known.
    pub members: Vec<MemberClock>,
}

/// A replica's wall clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberClock {
    /// The replica.
    pub id: u64,
    /// How far it is ahead of what a majority agrees on (without an agreement, of log time), or behind it
    /// (negative), milliseconds.
    pub ahead_ms: i64,
    /// Whether it should be set.
    pub far: bool,
}

/// The cluster was restored from a backup, and waits for its hosts to say what runs there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Revision of the restore.
    pub since: Revision,
    /// How many hosts have not reported since.
    pub waiting: u64,
    /// Some of them.
    pub hosts: Vec<HostName>,
}

/// A replica, as its cluster sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id, never used again for another.
    pub id: u64,
    /// Address of its API, `host:port` or a URL.
    pub api: String,
    /// Address for its peers.
    pub peer: String,
    /// `leader`, `follower`, `candidate`, `learner`.
    pub role: String,
    /// Whether it answers, as far as known.
    pub healthy: bool,
    /// Log entries it is behind the leader, where known.
    pub lag: Option<u64>,
    /// Whether it has started once, as far as its cluster knows that.
    pub claimed: bool,
    /// What is wrong with it, as far as the asked replica knows.
    pub problems: Vec<MemberProblem>,
}

/// Something that is wrong with a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberProblem {
    /// A stable code.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What mends it.
    pub mend: String,
}

/// A member that was added: `POST /v1/cluster/members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMember {
    /// Its id.
    pub id: u64,
    /// Address for its peers.
    #[serde(default)]
    pub peer: String,
    /// The member in whose place it comes.
    #[serde(default)]
    pub replaces: Option<u64>,
    /// How to start it.
    #[serde(default)]
    pub start: String,
}

/// `GET /v1/digest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestAt {
    /// Revision of the replica.
    pub revision: Revision,
    /// Digest of its history up to there.
    pub digest: Digest,
}

/// What a change that has no other answer came to.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Changed {
    pub(crate) changed: bool,
    pub(crate) revision: Revision,
}

/// Who leads after a transfer.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Leads {
    #[serde(rename = "leader")]
    _leader: u64,
}

/// What a command that was not refused came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Revision after the command; 0 if the replica did not say.
    pub revision: Revision,
    /// Whether it changed anything (`false`: it was so already).
    pub changed: bool,
    /// The address, if the command allocates one.
    pub allocation: Option<Allocation>,
}

/// One element of the answer to `POST /v1/batch`.
#[derive(Debug, Deserialize)]
pub(crate) struct BatchItem {
    #[serde(default)]
    revision: Revision,
    #[serde(default)]
    answer: Option<Answer>,
    #[serde(default)]
    error: Option<ApiError>,
}

impl BatchItem {
    /// The outcome of one command. `None` if the element has neither an answer nor an error.
    pub(crate) fn outcome(self) -> Option<Result<Done, ApiError>> {
        if let Some(error) = self.error {
            return Some(Err(error.with_status_of_code()));
        }
        let revision = self.revision;
        Some(Ok(match self.answer? {
            Answer::Done { changed } => Done { revision, changed, allocation: None },
            Answer::Address { allocation, fresh } => {
                Done { revision, changed: fresh, allocation: Some(allocation) }
            }
        }))
    }
}

/// A block that a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The block.
    pub cidr: IpNet,
    /// Its network.
    pub network: NetworkName,
    /// CIDR of the leaf group it lies in.
    #[serde(default)]
    pub group: Option<IpNet>,
    /// Its host.
    pub host: HostName,
    /// Its owner: the tenant …
    pub tenant: TenantId,
    /// … and the segment.
    pub segment: SegmentId,
    /// Number of live addresses in it.
    #[serde(default)]
    pub live: u64,
}
