//! `/v1/cluster` and `/v1/digest`: the replicas, their clocks, who leads and what is wrong.

use romana_statemachine::name::HostName;
use romana_statemachine::{Digest, Millis, Revision, Term};
use serde::{Deserialize, Serialize};

/// The cluster as one replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterStatus {
    /// Derived from the initial peers and token, or from the backup that the cluster began with.
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
    /// By id.
    pub members: Vec<MemberStatus>,
    /// Why nothing fresh is allocated; `null`: it is.
    #[serde(default)]
    pub held: Option<Held>,
    /// What the members' wall clocks show, as this replica sees them; absent: it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<ClocksStatus>,
}

impl ClusterStatus {
    /// The healthy follower that is furthest: who should lead next.
    #[must_use]
    pub fn successor(&self) -> Option<u64> {
        let followers = self.members.iter().filter(|member| member.role == Role::Follower);
        let healthy = followers.filter(|member| member.healthy);
        healthy.min_by_key(|member| (member.lag, member.id)).map(|member| member.id)
    }
}

/// A replica, as it said itself not long ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemberStatus {
    /// Never used again for another.
    pub id: u64,
    /// URL of its API; empty until it was heard of.
    pub api: String,
    /// Where the other replicas reach it, `HOST:PORT`.
    pub peer: String,
    pub role: Role,
    /// Whether it answered in the last one and a half seconds, is ready and has no fault.
    pub healthy: bool,
    /// Log entries that it is behind the one that is furthest.
    pub lag: u64,
    /// Whether its data directory has claimed the id: false until it has started once.
    pub claimed: bool,
    /// What is wrong with it, as far as the asked replica knows.
    pub problems: Vec<MemberProblem>,
}

/// Something that is wrong with a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemberProblem {
    /// A stable code, such as `OlderCopy`, `HistoryDamaged`, `Stopped`.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it: a command, or a sentence. Replicas of the first releases call it `mend`.
    #[serde(alias = "mend")]
    pub remedy: String,
}

/// What a member does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Leader,
    /// Votes and follows.
    Follower,
    /// Follows only.
    Learner,
    /// Something that a later version knows.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What the members' wall clocks show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ClocksStatus {
    /// The time that entries of the log are stamped with: milliseconds since 1970.
    pub log_time: Millis,
    /// Whether a majority of the voters' clocks agree.
    pub agreed: bool,
    /// How far log time is ahead of what they agree on, or behind it (negative), milliseconds; 0 without an
    /// agreement.
    pub log_ahead_ms: i64,
    /// The clocks that are known, by member.
    pub members: Vec<MemberClock>,
}

/// The wall clock of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemberClock {
    pub id: u64,
    /// How far it is ahead of what a majority agrees on (without an agreement, of log time), or behind it
    /// (negative), milliseconds.
    pub ahead_ms: i64,
    /// Whether it is so far from what a majority agrees on that it should be set.
    pub far: bool,
}

/// Why nothing fresh is allocated: the cluster was restored from a backup, and waits for its hosts to say what runs
/// there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Held {
    /// Revision of the restore.
    pub since: Revision,
    /// How many hosts have not reported since.
    pub waiting: u64,
    /// Some of them.
    pub hosts: Vec<HostName>,
}

/// A member to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AddMemberBody {
    /// Where the others will reach it, `HOST:PORT`.
    pub peer: String,
    /// The member in whose place it comes.
    #[serde(default)]
    pub replaces: Option<u64>,
    /// Even if too few healthy voters are left while it is on its way. Left out where it is false: replicas of the
    /// first release do not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A member that was added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewMember {
    pub id: u64,
    /// Where the others will reach it.
    #[serde(default)]
    pub peer: String,
    /// The member in whose place it comes.
    #[serde(default)]
    pub replaces: Option<u64>,
    /// How to start it: a command line.
    #[serde(default)]
    pub start: String,
}

/// Who is to lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TransferBody {
    /// Id of a member; absent: the healthy one that is furthest.
    pub to: Option<u64>,
}

/// Who leads after a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leader {
    pub leader: u64,
    #[serde(default)]
    pub term: Term,
}

/// How to raise the version of behaviour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RaiseBody {
    /// Even if an agent does not know it.
    pub force: bool,
}

/// The version of behaviour that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Raised {
    pub version: u16,
    /// Whether it was raised by this.
    pub changed: bool,
    pub revision: Revision,
}

/// Where a replica's history ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DigestAt {
    pub revision: Revision,
    /// Digest of the history up to there. Equal revisions have equal digests on all replicas.
    pub digest: Digest,
}
