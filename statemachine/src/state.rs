//! The state, and the two functions that everything goes through: [`State::decide`] (may refuse,
//! changes nothing) and [`State::evolve`] (changes, cannot fail). Both only dispatch; the rules are
//! in the module of each topic.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::address;
use crate::attachment::{self, Agents};
use crate::cluster::{self, Cluster};
use crate::command::{Command, Endpoint, HostState};
use crate::endpoint;
use crate::enrolment;
use crate::entry::{Digest, Entry, Index, Millis, Position, Proposal, Record, Revision, Term};
use crate::event::Event;
use crate::host::{self, Host, Hosts};
use crate::ipam::{self, Allocation, Ipam};
use crate::name::{Actor, HostName, PolicyName, TenantId, VipName};
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::tenant::{self, Tenant};
use crate::topology::{self, Topology};
use crate::vip::{self, RouterKey, Vip, VipHolder};

/// The highest version of behaviour that this program knows ([`Command::RaiseVersion`]).
pub const VERSION_MAX: u16 = 4;

/// Everything that was decided, as of one revision. A clone is O(1): the maps are persistent.
///
/// Invariants, checked by [`State::validate`]:
/// - a name has one address and an address one name; both directions agree;
/// - every live address lies in a block, is not free there, not cooling and not blacked out;
/// - every block is as long as its network's block mask says and lies in a leaf group of it that is
///   not padding; its host exists and has its place in that group; no two blocks overlap;
/// - a block's free, cooling, live and skipped addresses are disjoint and make up the block;
/// - the pool of a group holds exactly the blocks of the group that nobody has;
/// - each host has one place per network at most, a leaf group that its labels allow; names and
///   addresses of hosts are unique; host counts of groups are right;
/// - blackouts are disjoint, each inside one network;
/// - hosts that a restore waits for, and hosts with conflicts or an agent, exist; no member has an id that was retired;
/// - from version 4 on, an endpoint is of the owner and host that its address is allocated to, if it is;
/// - the tenant of each segment exists; a VIP's holder exists; no two VIPs share an address.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) version: u16,
    pub(crate) revision: Revision,
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) at: Millis,
    pub(crate) digest: Digest,
    pub(crate) settings: Settings,
    pub(crate) topology: Option<Arc<Topology>>,
    pub(crate) hosts: Hosts,
    pub(crate) host_addresses: OrdMap<IpAddr, HostName>,
    pub(crate) ipam: Ipam,
    pub(crate) tenants: OrdMap<TenantId, Arc<Tenant>>,
    pub(crate) policies: OrdMap<PolicyName, Arc<Policy>>,
    pub(crate) endpoints: OrdMap<IpAddr, Arc<Endpoint>>,
    pub(crate) vips: OrdMap<VipName, Arc<Vip>>,
    pub(crate) routers: OrdMap<RouterKey, HostName>,
    /// Leases that outlive their assignment: nobody else may answer for the address before.
    pub(crate) vip_fences: OrdMap<IpAddr, VipHolder>,
    pub(crate) cluster: Cluster,
    pub(crate) agents: Agents,
}

/// When and under which leader a command is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Entry time.
    pub at: Millis,
    /// Term of the entry.
    pub term: Term,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Revision after the command: that of its last event, or the state's if it caused none.
    pub revision: Revision,
    /// The answer.
    pub result: Result<Answer, Refusal>,
}

/// The answer to a command that was not refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done {
        /// Whether anything changed (`false`: it was so already).
        changed: bool,
    },
    /// An address.
    Address {
        /// It.
        allocation: Allocation,
        /// Whether this command allocated it (`false`: the name had it already).
        fresh: bool,
    },
}

/// Why a record does not continue a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// Revisions are missing or repeated.
    #[error("record {got} cannot follow revision {have}")]
    Gap {
        /// Revision of the state.
        have: Revision,
        /// Revision of the record.
        got: Revision,
    },
    /// The chain of digests is broken: another history, or damage.
    #[error("the digest of record {revision} does not continue the chain")]
    Chain {
        /// Revision of the record.
        revision: Revision,
    },
}

impl State {
    /// The state before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self { version: 1, ..Self::default() }
    }

    /// Whether this program may apply an entry: not one that goes on at a version of behaviour which
    /// it does not know. To refuse it as a command would be to decide differently than the others.
    ///
    /// # Errors
    /// The version.
    pub fn understands(&self, entry: &Entry) -> Result<(), u16> {
        let next = self.version + 1;
        let raises = |proposal: &Proposal| matches!(&proposal.command, Command::RaiseVersion(raise) if raise.version == next);
        let beyond = next > VERSION_MAX && entry.proposals.iter().any(raises);
        if beyond { Err(next) } else { Ok(()) }
    }

    /// Applies one log entry: decides each command on its own, in order, and evolves by what it
    /// causes. Returns one outcome per command, and the records of all events.
    pub fn apply(&mut self, position: Position, entry: &Entry) -> (Vec<Outcome>, Vec<Record>) {
        self.index = position.index;
        self.term = position.term;
        self.at = self.at.max(entry.at);
        let now = Now { at: self.at, term: position.term };
        let mut outcomes = Vec::with_capacity(entry.proposals.len());
        let mut records = Vec::with_capacity(entry.proposals.len());
        for proposal in &entry.proposals {
            let result = self.decide(&proposal.command, now).map(|events| {
                let first = records.len();
                for event in events {
                    records.push(self.record(proposal.actor.clone(), event));
                }
                self.answer(&proposal.command, records.get(first..).unwrap_or_default())
            });
            outcomes.push(Outcome { revision: self.revision, result });
        }
        (outcomes, records)
    }

    /// Follows a history: evolves by a record that somebody else's `apply` made.
    ///
    /// # Errors
    /// [`FollowError`], and the state is as it was, when the record does not come next.
    pub fn follow(&mut self, record: &Record) -> Result<(), FollowError> {
        if record.revision != self.revision + 1 {
            return Err(FollowError::Gap { have: self.revision, got: record.revision });
        }
        if !record.follows(&self.digest) {
            return Err(FollowError::Chain { revision: record.revision });
        }
        self.index = record.index;
        self.at = record.at;
        self.revision = record.revision;
        self.digest = record.digest;
        self.evolve(&record.event);
        Ok(())
    }

    /// Evolves by an event and gives it its place in the history.
    pub(crate) fn record(&mut self, actor: Actor, event: Event) -> Record {
        let (revision, index, at) = (self.revision + 1, self.index, self.at);
        let digest = Record::chain(&self.digest, revision, index, at, &actor, &event);
        self.revision = revision;
        self.digest = digest;
        self.evolve(&event);
        Record { revision, index, at, actor, event, digest }
    }

    /// The answer to a command that caused these records.
    fn answer(&self, command: &Command, records: &[Record]) -> Answer {
        let changed = !records.is_empty();
        let allocation = match (records.last(), command) {
            (Some(Record { event: Event::AddressAllocated(event), revision, .. }), _) => {
                self.ipam.allocated(event, *revision)
            }
            (None, Command::AllocateAddress(ask)) => self.ipam.by_name(&ask.name),
            _ => None,
        };
        match allocation {
            Some(allocation) => Answer::Address { allocation, fresh: changed },
            None => Answer::Done { changed },
        }
    }

    /// Decides what a command causes, without changing anything.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn decide(&self, command: &Command, now: Now) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::SetTopology(spec) => topology::decide_set(self, spec, now),
            Command::AddBlackout(blackout) => ipam::decide_blackout(self, blackout),
            Command::RemoveBlackout(blackout) => ipam::decide_unblackout(self, blackout),
            Command::ChangeSettings(change) => self.settings.decide(change),
            Command::RaiseVersion(raise) => self.decide_version(raise.version),
            Command::AddHost(spec) => host::decide_add(self, spec),
            Command::UpdateHost(change) => host::decide_update(self, change),
            Command::SetHostState(change) => host::decide_state(self, change, now),
            Command::RemoveHost(remove) => host::decide_remove(self, remove, now),
            Command::ReportHost(report) => ipam::decide_report(self, report, now),
            Command::AllocateAddress(ask) => ipam::decide_allocate(self, ask, now),
            Command::ReleaseAddress(ask) => ipam::decide_release(self, ask, now),
            Command::CreateTenant(spec) => tenant::decide_create(self, spec),
            Command::DeleteTenant(tenant) => tenant::decide_delete(self, tenant),
            Command::CreateSegment(spec) => tenant::decide_create_segment(self, spec),
            Command::DeleteSegment(segment) => tenant::decide_delete_segment(self, segment),
            Command::SetPolicy(policy) => crate::policy::decide_set(self, policy),
            Command::RemovePolicy(policy) => crate::policy::decide_remove(self, policy),
            Command::SetEndpoint(endpoint) => endpoint::decide_set(self, endpoint),
            Command::RemoveEndpoint(endpoint) => endpoint::decide_remove(self, endpoint),
            Command::RequestVip(spec) => vip::decide_request(self, spec),
            Command::AssignVip(assign) => vip::decide_assign(self, assign, now),
            Command::UnassignVip(unassign) => vip::decide_unassign(self, unassign, now),
            Command::RemoveVip(vip) => vip::decide_remove(self, vip),
            Command::AssignRouter(assign) => vip::decide_assign_router(self, assign, now),
            Command::UnassignRouter(unassign) => vip::decide_unassign_router(self, unassign, now),
            Command::EndCooldowns(end) => {
                fence(Some(end.term), now)?;
                Ok(ipam::end_cooldowns(self, now.at))
            }
            Command::SetRetention(wanted) => cluster::decide_retention(self, wanted),
            Command::SignCheckpoint(sign) => cluster::decide_sign(self, sign, now),
            Command::AddMember(add) => cluster::decide_add(self, add),
            Command::ClaimMember(claim) => cluster::decide_claim(self, claim),
            Command::RemoveMember(member) => cluster::decide_remove(self, member),
            Command::ResumeAllocation(_) => cluster::decide_resume(self),
            Command::ReportAttachments(report) => attachment::decide_report(self, report, now),
            Command::ClaimReserve(claim) => attachment::decide_claim(self, claim),
            Command::ChangeAgentSettings(change) => attachment::decide_settings(self, change),
            Command::EndHold(end) => attachment::decide_end_hold(self, end, now),
            Command::EnrolAgent(enrol) => enrolment::decide(self, enrol),
            Command::ReserveServices(reserve) => address::decide_reserve(self, reserve),
        }
    }

    fn decide_version(&self, version: u16) -> Result<Vec<Event>, Refusal> {
        if version == self.version {
            return Ok(Vec::new());
        }
        if version != self.version + 1 || version > VERSION_MAX {
            let (current, supported) = (self.version, VERSION_MAX);
            return Err(Refusal::VersionNotNext { version, current, supported });
        }
        let mut events = alloc::vec![Event::VersionRaised(crate::event::VersionRaised { version })];
        if version == endpoint::VERSION {
            events.extend(endpoint::contradicting(self));
        }
        Ok(events)
    }

    fn evolve_version(&mut self, version: u16) {
        self.version = version;
        if version == address::VERSION {
            self.reserve_hosts();
        }
    }

    /// Changes the state as an event says. Revision, time and digest are the caller's business.
    pub(crate) fn evolve(&mut self, event: &Event) {
        match event {
            Event::TopologySet(set) => topology::evolve_set(self, set),
            Event::BlackoutAdded(added) => self.ipam.add_blackout(added.cidr),
            Event::BlackoutRemoved(removed) => self.ipam.remove_blackout(removed.cidr),
            Event::VersionRaised(raised) => self.evolve_version(raised.version),
            Event::SettingsChanged(settings) => self.settings = settings.clone(),
            Event::HostAdded(added) => host::evolve_added(self, added),
            Event::HostUpdated(updated) => host::evolve_updated(self, updated),
            Event::HostDown(host) => host::evolve_state(self, &host.name, HostState::Down),
            Event::HostUp(host) => host::evolve_state(self, &host.name, HostState::Up),
            Event::HostDraining(host) => host::evolve_state(self, &host.name, HostState::Draining),
            Event::HostRemoved(removed) => host::evolve_removed(self, &removed.name),
            Event::BlockAssigned(assigned) => ipam::evolve_assigned(self, assigned),
            Event::BlockReleased(released) => self.ipam.evolve_released(released, self.revision),
            Event::AddressAllocated(allocated) => {
                self.ipam.evolve_allocated(allocated, self.revision);
            }
            Event::AddressReleased(released) => ipam::evolve_released(self, released),
            Event::CooldownsEnded(ended) => self.ipam.evolve_cooled(ended.released_until),
            Event::TenantCreated(created) => tenant::evolve_created(self, created),
            Event::TenantDeleted(deleted) => _ = self.tenants.remove(&deleted.id),
            Event::SegmentCreated(created) => tenant::evolve_segment(self, created),
            Event::SegmentDeleted(deleted) => tenant::evolve_segment_deleted(self, deleted),
            Event::PolicySet(policy) => {
                _ = self.policies.insert(policy.name.clone(), Arc::new(policy.clone()));
            }
            Event::PolicyRemoved(removed) => _ = self.policies.remove(&removed.name),
            Event::EndpointSet(endpoint) => {
                _ = self.endpoints.insert(endpoint.ip, Arc::new(endpoint.clone()));
            }
            Event::EndpointRemoved(removed) => _ = self.endpoints.remove(&removed.ip),
            Event::VipRequested(spec) => vip::evolve_requested(self, spec),
            Event::VipAssigned(assigned) => vip::evolve_assigned(self, assigned),
            Event::VipUnassigned(unassigned) => vip::evolve_unassigned(self, &unassigned.name),
            Event::VipRemoved(removed) => vip::evolve_removed(self, &removed.name),
            Event::RouterAssigned(assigned) => vip::evolve_router(self, assigned),
            Event::RouterUnassigned(gone) => vip::evolve_router_gone(self, gone),
            Event::RetentionSet(retention) => self.cluster.retention = retention.clone(),
            Event::CheckpointSigned(signed) => self.cluster.signed = Some(signed.clone()),
            Event::MemberAdded(added) => self.cluster.evolve_added(added),
            Event::MemberClaimed(claimed) => self.cluster.evolve_claimed(claimed),
            Event::MemberRemoved(removed) => self.cluster.evolve_removed(removed.id),
            Event::Restored(_) => cluster::evolve_restored(self),
            Event::HostReported(reported) => self.cluster.evolve_reported(&reported.host),
            Event::AllocationResumed(_) => self.cluster.held = None,
            Event::AddressAdopted(adopted) => self.ipam.evolve_adopted(adopted, self.revision),
            Event::AddressClaimed(claimed) => self.ipam.evolve_claimed(claimed, self.revision),
            Event::ConflictsReported(reported) => self.agents.evolve_conflicts(reported),
            Event::AgentSettingsChanged(settings) => self.agents.settings = settings.clone(),
            Event::AgentEnrolled(enrolled) => self.evolve_enrolled(enrolled),
            Event::ServicesReserved(reserved) => {
                self.ipam.services = reserved.ranges.iter().copied().collect();
            }
        }
    }
}

/// Reading.
impl State {
    /// Version of behaviour that is on.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Revision of the last event; 0 before the first.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Raft index of the last entry applied.
    #[must_use]
    pub fn index(&self) -> Index {
        self.index
    }

    /// Time of the last entry applied.
    #[must_use]
    pub fn at(&self) -> Millis {
        self.at
    }

    /// Digest of the history up to [`Self::revision`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Cluster settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The topology, if one was set.
    #[must_use]
    pub fn topology(&self) -> Option<&Topology> {
        self.topology.as_deref()
    }

    /// A host.
    #[must_use]
    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.hosts.get(name).map(|host| &**host)
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().map(|host| &**host)
    }

    /// The host that has this physical address.
    #[must_use]
    pub fn host_at(&self, ip: IpAddr) -> Option<&Host> {
        self.host_addresses.get(&ip).and_then(|name| self.host(name))
    }

    /// Blocks, addresses and blackouts.
    #[must_use]
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// A tenant.
    #[must_use]
    pub fn tenant(&self, id: &TenantId) -> Option<&Tenant> {
        self.tenants.get(id).map(|tenant| &**tenant)
    }

    /// All tenants that were created, by id.
    pub fn tenants(&self) -> impl Iterator<Item = (&TenantId, &Tenant)> {
        self.tenants.iter().map(|(id, tenant)| (id, &**tenant))
    }

    /// A policy.
    #[must_use]
    pub fn policy(&self, name: &PolicyName) -> Option<&Policy> {
        self.policies.get(name).map(|policy| &**policy)
    }

    /// All policies, by name.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values().map(|policy| &**policy)
    }

    /// An endpoint.
    #[must_use]
    pub fn endpoint(&self, ip: IpAddr) -> Option<&Endpoint> {
        self.endpoints.get(&ip).map(|endpoint| &**endpoint)
    }

    /// All endpoints, by address.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().map(|endpoint| &**endpoint)
    }

    /// A VIP.
    #[must_use]
    pub fn vip(&self, name: &VipName) -> Option<&Vip> {
        self.vips.get(name).map(|vip| &**vip)
    }

    /// All VIPs, by name.
    pub fn vips(&self) -> impl Iterator<Item = &Vip> {
        self.vips.values().map(|vip| &**vip)
    }

    /// Which host forwards for which prefix in which route table.
    pub fn routers(&self) -> impl Iterator<Item = (&RouterKey, &HostName)> {
        self.routers.iter()
    }
}

/// Refuses a leader task's command that was decided in an earlier term.
pub(crate) fn fence(term: Option<Term>, now: Now) -> Result<(), Refusal> {
    match term {
        Some(term) if term != now.term => Err(Refusal::StaleTerm { term, current: now.term }),
        _ => Ok(()),
    }
}

/// Checks labels against their bounds.
pub(crate) fn check_labels(labels: &crate::Labels) -> Result<(), Refusal> {
    use crate::limits::{LABEL_BYTES_MAX, LABELS_MAX};
    let refuse = |why: &str| Err(Refusal::InvalidLabels { why: String::from(why) });
    if labels.len() > LABELS_MAX {
        return refuse("there are more than 128");
    }
    for (key, value) in labels {
        if key.is_empty() {
            return refuse("a key is empty");
        }
        if key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return refuse("a key or value is longer than 1024 bytes");
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return refuse("a key or value has a control character");
        }
    }
    Ok(())
}
