//! The cluster itself, since version 2: its members, how long it keeps its history, and whether it
//! was restored from a backup and still waits for its hosts.
//!
//! Raft's membership says who votes; what is here says who a member is, so that an id is never given
//! twice and a replica that lost its disk is told from a new one.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::command::{AddMember, AllocateAddress, ClaimMember, HostReport, MemberRef};
use crate::command::{Retention, SignCheckpoint};
use crate::entry::{Digest, Record, Revision};
use crate::event::{
    AllocationResumed, CheckpointSigned, Event, HostReported, MemberAdded, MemberClaimed,
    MemberRemoved, Restored, ResumedBy,
};
use crate::limits::{
    MEMBER_TEXT_BYTES_MAX, MEMBERS_MAX, NAMES_LISTED_MAX, RETENTION_AGE_MS, RETENTION_BYTES,
};
use crate::name::{Actor, HostName};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot2;
use crate::state::{Now, State, fence};

/// The version of behaviour that knows this module.
const VERSION: u16 = 2;

/// What is known about the cluster itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) members: OrdMap<u64, Member>,
    /// Ids of members that are gone: never given again.
    pub(crate) removed: OrdSet<u64>,
    pub(crate) retention: Retention,
    pub(crate) signed: Option<CheckpointSigned>,
    pub(crate) held: Option<Held>,
}

/// A replica of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id, never given to another.
    pub id: u64,
    /// `host:port` of its peer listener.
    pub peer: String,
    /// What its data directory calls itself: made at random when the directory was new. `None` until
    /// it has started.
    pub nonce: Option<String>,
    /// The member in whose place it was added.
    pub replaces: Option<u64>,
}

/// Why nothing fresh is allocated: the cluster was restored from a backup, and what was allocated
/// after the backup is known to the hosts only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Revision of the restore.
    pub since: Revision,
    /// Hosts that have not reported since.
    pub waiting: OrdSet<HostName>,
}

fn needs_version(state: &State) -> Result<(), Refusal> {
    let current = state.version;
    if current < VERSION {
        return Err(Refusal::VersionTooLow { needed: VERSION, current });
    }
    Ok(())
}

pub(crate) fn decide_retention(state: &State, wanted: &Retention) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    let within = |setting: &str, value: Option<u64>, (min, max): (u64, u64)| match value {
        Some(value) if value < min || value > max => {
            Err(Refusal::SettingOutOfRange { setting: setting.into(), value, min, max })
        }
        _ => Ok(()),
    };
    within("history_retention_ms", wanted.age_ms, RETENTION_AGE_MS)?;
    within("history_retention_bytes", wanted.bytes, RETENTION_BYTES)?;
    if *wanted == state.cluster.retention {
        return Ok(Vec::new());
    }
    Ok(alloc::vec![Event::RetentionSet(wanted.clone())])
}

pub(crate) fn decide_sign(
    state: &State,
    sign: &SignCheckpoint,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    fence(Some(sign.term), now)?;
    let SignCheckpoint { revision, digest, state_digest, .. } = *sign;
    let signed = state.cluster.signed.as_ref().map_or(0, |signed| signed.revision);
    if revision <= signed || revision > state.revision {
        return Err(Refusal::CheckpointNotNext { revision, signed, current: state.revision });
    }
    Ok(alloc::vec![Event::CheckpointSigned(CheckpointSigned { revision, digest, state_digest })])
}

pub(crate) fn decide_add(state: &State, add: &AddMember) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    check_peer(&add.peer)?;
    let Cluster { members, removed, .. } = &state.cluster;
    if members.len() >= MEMBERS_MAX {
        let (size, max) = (members.len() as u64 + 1, MEMBERS_MAX as u64);
        return Err(Refusal::TooLarge { field: "members".into(), size, max });
    }
    if let Some(id) = add.replaces.filter(|id| removed.contains(id)) {
        return Err(Refusal::MemberIsRemoved { id });
    }
    let same = members.values().find(|m| m.peer == add.peer && Some(m.id) != add.replaces);
    match same {
        // The same request again, before the member has started.
        Some(member) if member.nonce.is_none() && member.replaces == add.replaces => Ok(Vec::new()),
        Some(member) => Err(Refusal::MemberExists { id: member.id, peer: add.peer.clone() }),
        None => {
            let id = state.last_member_id().max(add.floor).saturating_add(1);
            let (peer, replaces) = (add.peer.clone(), add.replaces);
            Ok(alloc::vec![Event::MemberAdded(MemberAdded { id, peer, replaces })])
        }
    }
}

/// Founders have no `MemberAdded`: their first claim makes them known.
pub(crate) fn decide_claim(state: &State, claim: &ClaimMember) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    check_peer(&claim.peer)?;
    check_text("nonce", &claim.nonce)?;
    let id = claim.id;
    if state.cluster.removed.contains(&id) {
        return Err(Refusal::MemberIsRemoved { id });
    }
    match state.cluster.members.get(&id).and_then(|member| member.nonce.as_ref()) {
        Some(nonce) if *nonce == claim.nonce => Ok(Vec::new()),
        Some(_) => Err(Refusal::MemberIsClaimed { id }),
        None => {
            let (nonce, peer) = (claim.nonce.clone(), claim.peer.clone());
            Ok(alloc::vec![Event::MemberClaimed(MemberClaimed { id, nonce, peer })])
        }
    }
}

pub(crate) fn decide_remove(state: &State, member: &MemberRef) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    if state.cluster.removed.contains(&member.id) {
        return Ok(Vec::new());
    }
    Ok(alloc::vec![Event::MemberRemoved(MemberRemoved { id: member.id })])
}

pub(crate) fn decide_resume(state: &State) -> Result<Vec<Event>, Refusal> {
    needs_version(state)?;
    let resumed = Event::AllocationResumed(AllocationResumed { by: ResumedBy::Operator });
    Ok(state.cluster.held.iter().map(|_| resumed.clone()).collect())
}

/// While allocation is held, only what already runs is taken up again: by its address.
pub(crate) fn decide_hold(state: &State, ask: &AllocateAddress) -> Result<(), Refusal> {
    let Some(held) = state.cluster.held.as_ref().filter(|_| ask.ip.is_none()) else {
        return Ok(());
    };
    Err(Refusal::AllocationHeld {
        since: held.since,
        hosts: held.waiting.iter().take(NAMES_LISTED_MAX).cloned().collect(),
        waiting: held.waiting.len() as u64,
    })
}

/// What a host's report ends while allocation is held. A report that names what is not allocated
/// does not count: the agent takes those up first, each by its address.
pub(crate) fn decide_reported(state: &State, report: &HostReport) -> Result<Vec<Event>, Refusal> {
    let Some(held) = &state.cluster.held else { return Ok(Vec::new()) };
    if !held.waiting.contains(&report.host) || report.revision < held.since {
        return Ok(Vec::new());
    }
    let allocated: BTreeSet<_> =
        state.ipam.host_addresses(&report.host).map(|live| live.name).collect();
    let missing = || report.running.iter().filter(|name| !allocated.contains(*name));
    let total = missing().count() as u64;
    if total > 0 {
        let names = missing().take(NAMES_LISTED_MAX).cloned().collect();
        return Err(Refusal::ReportIncomplete { host: report.host.clone(), names, total });
    }
    Ok(reported(state, &report.host, report.revision))
}

/// What the report of a host ends while allocation is held, if it counts.
pub(crate) fn reported(state: &State, host: &HostName, revision: Revision) -> Vec<Event> {
    let waits = |held: &&Held| held.waiting.contains(host) && revision >= held.since;
    let Some(_) = state.cluster.held.as_ref().filter(waits) else { return Vec::new() };
    let reported = HostReported { host: host.clone(), revision };
    let mut events = alloc::vec![Event::HostReported(reported)];
    events.extend(resumed_without(state, host));
    events
}

/// The end of the hold, if this is the last host that it waits for.
pub(crate) fn resumed_without(state: &State, host: &HostName) -> Option<Event> {
    let held = state.cluster.held.as_ref()?;
    let last = held.waiting.len() == 1 && held.waiting.contains(host);
    last.then_some(Event::AllocationResumed(AllocationResumed { by: ResumedBy::Reports }))
}

fn check_peer(peer: &str) -> Result<(), Refusal> {
    check_text("peer", peer)?;
    let refuse = |why: &str| Err(Refusal::InvalidPeer { peer: peer.into(), why: why.into() });
    let Some((host, port)) = peer.rsplit_once(':') else {
        return refuse("it has no port");
    };
    if host.is_empty() || port.parse::<u16>().is_ok_and(|port| port == 0) {
        return refuse("host or port is missing");
    }
    if port.parse::<u16>().is_err() {
        return refuse("the port is not a number up to 65535");
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return refuse("an IPv6 address goes in brackets");
    }
    Ok(())
}

/// Printable ASCII without spaces, bounded.
fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > MEMBER_TEXT_BYTES_MAX {
        let (size, max) = (text.len() as u64, MEMBER_TEXT_BYTES_MAX as u64);
        return Err(Refusal::TooLarge { field: field.into(), size, max });
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let shown: String = text.chars().flat_map(char::escape_default).collect();
        let why = alloc::format!("{field} must be printable ASCII, and not empty");
        return Err(Refusal::InvalidPeer { peer: shown, why });
    }
    Ok(())
}

impl Cluster {
    pub(crate) fn evolve_added(&mut self, added: &MemberAdded) {
        let MemberAdded { id, peer, replaces } = added.clone();
        self.members.insert(id, Member { id, peer, nonce: None, replaces });
    }

    pub(crate) fn evolve_claimed(&mut self, claimed: &MemberClaimed) {
        let MemberClaimed { id, nonce, peer } = claimed.clone();
        let replaces = self.members.get(&id).and_then(|member| member.replaces);
        self.members.insert(id, Member { id, peer, nonce: Some(nonce), replaces });
    }

    pub(crate) fn evolve_removed(&mut self, id: u64) {
        self.members.remove(&id);
        self.removed.insert(id);
    }

    pub(crate) fn evolve_reported(&mut self, host: &HostName) {
        if let Some(held) = &mut self.held {
            held.waiting.remove(host);
        }
    }
}

/// A restored cluster begins with new members and waits for all its hosts.
pub(crate) fn evolve_restored(state: &mut State) {
    let waiting: OrdSet<HostName> = state.hosts.values().map(|host| host.name.clone()).collect();
    let since = state.revision;
    state.version = state.version.max(VERSION);
    state.cluster.members.clear();
    state.cluster.removed.clear();
    state.cluster.held = (!waiting.is_empty()).then_some(Held { since, waiting });
}

/// The cluster itself.
impl State {
    /// Members that have been added or have started, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.cluster.members.values()
    }

    /// A member.
    #[must_use]
    pub fn member(&self, id: u64) -> Option<&Member> {
        self.cluster.members.get(&id)
    }

    /// Whether a member of this id was removed: the id is never used again.
    #[must_use]
    pub fn member_is_removed(&self, id: u64) -> bool {
        self.cluster.removed.contains(&id)
    }

    /// The highest id that any member had; 0 when none is known.
    #[must_use]
    pub fn last_member_id(&self) -> u64 {
        let present = self.cluster.members.get_max().map_or(0, |(id, _)| *id);
        present.max(self.cluster.removed.get_max().copied().unwrap_or(0))
    }

    /// How long the history is kept.
    #[must_use]
    pub fn retention(&self) -> &Retention {
        &self.cluster.retention
    }

    /// The last checkpoint that the cluster agreed on: the history before it may be purged.
    #[must_use]
    pub fn signed(&self) -> Option<&CheckpointSigned> {
        self.cluster.signed.as_ref()
    }

    /// Why nothing fresh is allocated; `None`: allocation goes on.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.cluster.held.as_ref()
    }

    /// The state of a new cluster that begins with this one, and the record that says so. Equal
    /// states and arguments give equal results, so that the replicas of the new cluster begin alike.
    #[must_use]
    pub fn restored(mut self, restored: Restored) -> (Self, Record) {
        (self.index, self.term) = (0, 0);
        let record = self.record(Actor::from("restore"), Event::Restored(restored));
        (self, record)
    }

    /// The digest of the content: equal for all states that the same history leads to. Independent
    /// of entries that caused nothing. In O(n).
    #[must_use]
    pub fn state_digest(&self) -> Digest {
        let mut content = self.clone();
        content.index = 0;
        content.term = 0;
        content.at = crate::entry::Millis::default();
        content.snapshot_digest()
    }
}

impl Snapshot2 {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            members: cluster.members.values().cloned().collect(),
            removed: cluster.removed.iter().copied().collect(),
            retention: cluster.retention.clone(),
            signed: cluster.signed.clone(),
            held: cluster
                .held
                .as_ref()
                .map(|held| (held.since, held.waiting.iter().cloned().collect::<Vec<HostName>>())),
        }
    }

    pub(crate) fn into_cluster(self) -> Cluster {
        let Self { members, removed, retention, signed, held } = self;
        let held =
            held.map(|(since, waiting)| Held { since, waiting: waiting.into_iter().collect() });
        Cluster {
            members: members.into_iter().map(|member| (member.id, member)).collect(),
            removed: removed.into_iter().collect(),
            retention,
            signed,
            held,
        }
    }
}
