//! The state, how log entries and records change it, and how it is read. `decide` determines the events of a command,
//! `evolve` applies an event; both only dispatch to the rules in the module of each topic.

mod decide;
mod evolve;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::command::{Command, Endpoint, ObjectKey, Retention, Source};
use crate::entry::{Digest, Entry, Index, Millis, Position, Proposal, Record, Revision, Term};
use crate::event::{CheckpointSigned, Conflict, Event};
use crate::hold::AllocationHold;
use crate::host::{Host, Hosts};
use crate::ipam::{Allocation, Ipam};
use crate::members::Members;
use crate::name::{Actor, HostName, InstanceId, PolicyName, TenantId, VipName, VipPoolName};
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::settings::{AgentSettings, Settings};
use crate::tenant::Tenant;
use crate::topology::Topology;
use crate::version::VERSION_MAX;
use crate::vip::{RouterKey, Vip, VipHolder};

/// All decisions up to one revision. A clone is O(1): the maps are persistent.
///
/// Invariants, checked by [`State::validate`]:
/// - a name has one address and an address one name; both directions agree;
/// - every live address lies in a block, is not free there, not cooling and not blacked out;
/// - every block has the length of its network's block mask and lies in a leaf group of it that is not padding; its
///   host exists and has its place in that group; no two blocks overlap;
/// - a block's free, cooling, live and skipped addresses are disjoint and make up the block;
/// - the pool of a group holds exactly the unassigned blocks of the group;
/// - each host has at most one place per network, in a leaf group that its labels allow; names and addresses of hosts
///   are unique; host counts of groups are correct;
/// - blackouts are disjoint, each inside one network;
/// - hosts that a restore waits for, and hosts with conflicts or an agent, exist; no member has a retired id;
/// - from version 4 on, an endpoint has the owner and host of the allocation of its address, if there is one;
/// - the tenant of each segment exists; a VIP's holder exists and is one until version 3 or from version 4 on;
///   no two VIPs share an address, and no two ranges of VIP pools;
/// - the object of each source exists.
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
    /// Leases that outlive their assignment: until they expire no other host may answer for the address.
    /// Until version 3.
    pub(crate) vip_fences: OrdMap<IpAddr, VipHolder>,
    /// The longest grant of a VIP so far, milliseconds; 0: no VIP was placed yet.
    pub(crate) vip_grant_max_ms: u64,
    /// Since which revision no host has a VIP. Since version 4.
    pub(crate) vips_vacant: OrdMap<VipName, Revision>,
    /// Addresses for VIPs. Since version 4.
    pub(crate) vip_pools: OrdMap<VipPoolName, Arc<Vec<IpNet>>>,
    pub(crate) members: Members,
    pub(crate) retention: Retention,
    pub(crate) signed: Option<CheckpointSigned>,
    pub(crate) held: Option<AllocationHold>,
    pub(crate) agent_settings: AgentSettings,
    /// The agent enrolled for each host.
    pub(crate) agents: OrdMap<HostName, InstanceId>,
    /// Addresses that hosts use but cannot be allocated.
    pub(crate) conflicts: OrdMap<HostName, Arc<Vec<Conflict>>>,
    /// The source of each object that belongs to one.
    pub(crate) sources: OrdMap<ObjectKey, Source>,
}

/// The time and Raft term at which a command is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Entry time.
    pub at: Millis,
    /// Term of the entry.
    pub term: Term,
}

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Revision after the command: that of its last event, or the current one if it caused none.
    pub revision: Revision,
    pub result: Result<Answer, Refusal>,
}

/// The result of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Answer {
    Done {
        /// Whether anything changed (`false`: the state was already as requested).
        changed: bool,
    },
    Address {
        allocation: Allocation,
        /// Whether this command allocated it (`false`: the name already had it).
        fresh: bool,
    },
}

/// Why a record does not continue a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// Revisions are missing or repeated.
    #[error("record {got} cannot follow revision {have}")]
    Gap {
        have: Revision,
        /// Revision of the record.
        got: Revision,
    },
    /// The digest chain is broken: the record is from another history, or damaged.
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

    /// Whether this program may apply an entry: not if the entry raises the cluster to an unsupported version.
    /// Refusing it as a command would be a different decision from that of the other replicas.
    ///
    /// # Errors
    /// The version.
    pub fn understands(&self, entry: &Entry) -> Result<(), u16> {
        let next = self.version + 1;
        let raises = |proposal: &Proposal| matches!(&proposal.command, Command::RaiseVersion(raise) if raise.version == next);
        let beyond = next > VERSION_MAX && entry.proposals.iter().any(raises);
        if beyond { Err(next) } else { Ok(()) }
    }

    /// Applies one log entry: decides each command separately, in order, and applies its events. Returns one outcome
    /// per command, and the records of all events.
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

    /// Follows a history: applies a record that another replica's `apply` produced.
    ///
    /// # Errors
    /// [`FollowError`] if the record is not the next one; the state is then unchanged.
    pub fn follow(&mut self, record: &Record) -> Result<(), FollowError> {
        if record.revision != self.revision.next() {
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

    /// Applies an event and appends it to the history.
    pub(crate) fn record(&mut self, actor: Actor, event: Event) -> Record {
        let (revision, index, at) = (self.revision.next(), self.index, self.at);
        let digest = Record::chain(&self.digest, revision, index, at, &actor, &event);
        self.revision = revision;
        self.digest = digest;
        self.evolve(&event);
        Record { revision, index, at, actor, event, digest }
    }

    /// The result of a command that caused these records.
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
}

/// Read access.
impl State {
    /// The enabled version of behaviour.
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

    /// The host with this physical address.
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

    /// Which host is the router of which prefix in which route table.
    pub fn routers(&self) -> impl Iterator<Item = (&RouterKey, &HostName)> {
        self.routers.iter()
    }
}
