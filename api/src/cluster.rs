//! `/v1/cluster` and `/v1/digest`: replicas, clocks, leader and problems.

use romana_statemachine::name::HostName;
use romana_statemachine::{Digest, Millis, Revision, Term};
use serde::{Deserialize, Serialize};

/// The cluster as seen by one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterStatus {
    /// Derived from the initial peers and token, or from the backup that the cluster was restored from.
    #[serde(default)]
    pub cluster_id: String,
    /// Id of the leader, if one is known.
    #[serde(default)]
    pub leader: Option<u64>,
    /// The Raft term.
    #[serde(default)]
    pub term: Term,
    /// Revision of the replica that answers.
    #[serde(default)]
    pub revision: Revision,
    /// Sorted by id.
    pub members: Vec<MemberStatus>,
    /// Why no new addresses are allocated; `null`: they are.
    #[serde(default)]
    pub held: Option<AllocationHold>,
    /// The members' wall clocks as seen by this replica; absent: not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<ClocksStatus>,
}

impl ClusterStatus {
    /// The healthy follower with the smallest lag, as the next leader.
    #[must_use]
    pub fn successor(&self) -> Option<u64> {
        let followers = self.members.iter().filter(|member| member.role == Role::Follower);
        let healthy = followers.filter(|member| member.healthy);
        healthy.min_by_key(|member| (member.lag, member.id)).map(|member| member.id)
    }
}

/// A replica, from its own recent report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemberStatus {
    /// Never reused.
    pub id: u64,
    /// URL of its API; empty until it has reported it.
    pub api: String,
    /// Address for the other replicas, `HOST:PORT`.
    pub peer: String,
    pub role: Role,
    /// Whether it answered in the last one and a half seconds, is ready and has no fault.
    pub healthy: bool,
    /// Number of log entries that it lags behind the most advanced member.
    pub lag: u64,
    /// Whether its data directory has claimed the id: false until its first start.
    pub claimed: bool,
    /// Its problems, as far as the answering replica knows.
    pub problems: Vec<MemberProblem>,
}

/// A problem of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemberProblem {
    /// A stable code, such as `OlderCopy`, `HistoryDamaged`, `Stopped`.
    pub code: String,
    /// Description of the problem.
    pub what: String,
    /// What to do: a command, or a sentence. Replicas of the first releases call it `mend`.
    #[serde(alias = "mend")]
    pub remedy: String,
}

/// The role of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Leader,
    /// Votes and follows the leader.
    Follower,
    /// Follows the leader without a vote.
    Learner,
    /// A role of a later version.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Role {
    /// Its name in JSON and text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Unknown => "unknown",
        }
    }
}

/// The members' wall clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ClocksStatus {
    /// The time stamped on log entries: milliseconds since 1970.
    pub log_time: Millis,
    /// Whether a majority of the voters' clocks agree.
    pub agreed: bool,
    /// How far log time is ahead of the time that the clocks agree on (negative: behind),
    /// milliseconds; 0 without an agreement.
    pub log_ahead_ms: i64,
    /// The known clocks, by member.
    pub members: Vec<MemberClock>,
}

/// The wall clock of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemberClock {
    pub id: u64,
    /// How far it is ahead of the time that a majority agrees on (without an agreement: of log time),
    /// milliseconds; negative: behind.
    pub ahead_ms: i64,
    /// Whether it differs from the majority so much that it should be corrected.
    pub far: bool,
}

/// Why no new addresses are allocated: the cluster was restored from a backup, and waits for its
/// hosts to report what they run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AllocationHold {
    /// Revision of the restore.
    pub since: Revision,
    /// Number of hosts that have not reported since.
    pub waiting: u64,
    /// Some of these hosts.
    pub hosts: Vec<HostName>,
}

/// A member to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddMemberBody {
    /// Its address for the other replicas, `HOST:PORT`.
    pub peer: String,
    /// Id of the member that it replaces.
    #[serde(default)]
    pub replaces: Option<u64>,
    /// Add it even if too few healthy voters remain in the meantime. Omitted if false: replicas of
    /// the first release do not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// An added member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewMember {
    pub id: u64,
    /// Its address for the other replicas.
    #[serde(default)]
    pub peer: String,
    /// Id of the member that it replaces.
    #[serde(default)]
    pub replaces: Option<u64>,
    /// The command line that starts it.
    #[serde(default)]
    pub start: String,
}

/// The target of a leadership transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TransferBody {
    /// Id of the member; absent: the healthy member with the smallest lag.
    pub to: Option<u64>,
}

/// The leader after a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leader {
    pub leader: u64,
    #[serde(default)]
    pub term: Term,
}

/// Options for raising the version of behaviour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RaiseBody {
    /// Raise it even if an agent does not support it.
    pub force: bool,
}

/// The version of behaviour in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Raised {
    pub version: u16,
    /// Whether this request raised it.
    pub changed: bool,
    pub revision: Revision,
}

/// The end of a replica's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DigestAt {
    pub revision: Revision,
    /// Digest of the history at that revision. Equal revisions have equal digests on all replicas.
    pub digest: Digest,
}
