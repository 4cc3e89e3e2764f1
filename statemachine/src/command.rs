//! What can be asked of the state: one variant per command, which is also the JSON that
//! `POST /v1/batch` takes (`{"AllocateAddress": {"name": …}}`).
//!
//! The wire form numbers variants and fields by position. Frozen: append variants, never edit one.
//! A changed command is a new variant that waits for [`Command::RaiseVersion`].

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::ReserveServices;
use crate::attachment::{AgentSettingsChange, ClaimReserve, EndHold, ReportAttachments};
use crate::enrolment::EnrolAgent;
use crate::entry::{Digest, Revision, Term};
use crate::name::{
    AddressName, HostName, NetworkName, PolicyName, SegmentId, TableId, TenantId, VipName,
};
use crate::policy::Policy;
use crate::topology::TopologySpec;

/// Key–value pairs on hosts, tenants, segments and endpoints.
pub type Labels = BTreeMap<String, String>;

/// A command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// Sets or replaces the topology. Everything that lives is kept, or the whole is refused.
    SetTopology(TopologySpec),
    /// Excludes a range from allocation.
    AddBlackout(Blackout),
    /// Ends a blackout. The CIDR must be one that was added.
    RemoveBlackout(Blackout),
    /// Changes cluster settings.
    ChangeSettings(SettingsChange),
    /// Switches behaviour on that every replica must have.
    RaiseVersion(RaiseVersion),
    /// Adds a host and places it in a prefix group of every network that has one for it.
    AddHost(HostSpec),
    /// Changes a host's labels, addresses or info.
    UpdateHost(HostChange),
    /// Marks a host up, down or draining.
    SetHostState(SetHostState),
    /// Removes a host; with `force`, also everything that lives on it.
    RemoveHost(RemoveHost),
    /// What really runs on a host, said by its agent: frees what does not.
    ReportHost(HostReport),
    /// Allocates an address. Idempotent by name.
    AllocateAddress(AllocateAddress),
    /// Releases an address. Idempotent.
    ReleaseAddress(ReleaseAddress),
    /// Creates a tenant or replaces its labels.
    CreateTenant(TenantSpec),
    /// Deletes a tenant that owns nothing.
    DeleteTenant(TenantRef),
    /// Creates a segment or replaces its labels.
    CreateSegment(SegmentSpec),
    /// Deletes a segment that owns nothing.
    DeleteSegment(SegmentRef),
    /// Creates or replaces a policy.
    SetPolicy(Policy),
    /// Removes a policy.
    RemovePolicy(PolicyRef),
    /// Creates or replaces an endpoint.
    SetEndpoint(Endpoint),
    /// Removes an endpoint. Idempotent.
    RemoveEndpoint(EndpointRef),
    /// Creates or replaces the request for a VIP.
    RequestVip(VipSpec),
    /// Puts a VIP on a host for the length of a lease, or renews the lease (leader task).
    AssignVip(AssignVip),
    /// Takes a VIP off its host (leader task).
    UnassignVip(UnassignVip),
    /// Removes a VIP.
    RemoveVip(VipRef),
    /// Makes a host the router of a prefix in a route table (leader task).
    AssignRouter(AssignRouter),
    /// Withdraws the router of a prefix (leader task).
    UnassignRouter(UnassignRouter),
    /// Ends cool-downs that are over and returns emptied blocks to their groups (leader task).
    EndCooldowns(EndCooldowns),
    /// Says how long the history is kept (version 2).
    SetRetention(Retention),
    /// Agrees on a checkpoint, before which the history may be purged (leader task; version 2).
    SignCheckpoint(SignCheckpoint),
    /// Gives a new member its id (version 2). Raft's membership changes apart from it.
    AddMember(AddMember),
    /// Says which data directory a member's id belongs to, for ever (version 2).
    ClaimMember(ClaimMember),
    /// Retires a member's id (version 2). Idempotent.
    RemoveMember(MemberRef),
    /// Ends the hold on allocation after a restore without waiting for more hosts (version 2).
    ResumeAllocation(ResumeAllocation),
    /// What really runs on a host, with addresses: frees what does not, adopts what is not allocated
    /// (version 3).
    ReportAttachments(ReportAttachments),
    /// Names an address of the reserve that was used while its host was cut off (version 3).
    ClaimReserve(ClaimReserve),
    /// Changes the settings of what concerns agents (version 3).
    ChangeAgentSettings(AgentSettingsChange),
    /// Ends the wait for reports after a restore, when it has been long enough (leader task; version 3).
    EndHold(EndHold),
    /// Makes an agent the one that speaks for its host (version 4). Idempotent.
    EnrolAgent(EnrolAgent),
    /// Keeps ranges for services: no endpoint, host or network gets their addresses (version 4). Idempotent.
    ReserveServices(ReserveServices),
}

/// A range excluded from allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// The range, as text: decide says what is wrong with it.
    pub cidr: String,
}

/// New values of cluster settings; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// How long a released address is not given out again, milliseconds. 0 = at once.
    pub address_reuse_delay_ms: Option<u64>,
    /// How long a host may answer for a VIP without a renewal, milliseconds.
    pub vip_lease_ms: Option<u64>,
}

/// Which version to raise to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaiseVersion {
    /// The new version.
    pub version: u16,
}

/// Who manages a host: decides who may remove it without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostSource {
    /// Added by an operator, over the API or the CLI.
    #[default]
    Operator,
    /// Declared in a topology document.
    Topology,
    /// A Kubernetes Node: removed with it.
    Kubernetes,
}

/// A host to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Its name (the Kubernetes node name). Unique.
    pub name: HostName,
    /// Its address in the physical network. Unique.
    pub ip: IpAddr,
    /// Further addresses (the other family, other links). Unique.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Labels: choose the prefix group.
    #[serde(default)]
    pub labels: Labels,
    /// Free-form facts, kept and shown.
    #[serde(default)]
    pub info: Labels,
    /// Who manages it.
    #[serde(default)]
    pub source: HostSource,
}

/// New facts about a host; absent ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostChange {
    /// Which host.
    pub name: HostName,
    /// New address.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// New further addresses.
    #[serde(default)]
    pub addresses: Option<Vec<IpAddr>>,
    /// New labels, replacing the old ones. The host must still be eligible where it has blocks.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// New facts, replacing the old ones.
    #[serde(default)]
    pub info: Option<Labels>,
}

/// Whether a host may be given VIPs and routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// In service.
    #[default]
    Up,
    /// Not answering.
    Down,
    /// Being emptied: gets no new VIP or router duty; addresses are still allocated (DaemonSets).
    Draining,
}

/// A host's new state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetHostState {
    /// Which host.
    pub name: HostName,
    /// Its new state.
    pub state: HostState,
    /// Set by leader tasks: the term they decided in.
    #[serde(default)]
    pub term: Option<Term>,
}

/// A host to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveHost {
    /// Which host.
    pub name: HostName,
    /// Evict: release what lives on it instead of refusing. Recorded as such.
    #[serde(default)]
    pub force: bool,
}

/// An attachment report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostReport {
    /// The reporting host.
    pub host: HostName,
    /// The revision the agent had followed to when it looked. Younger addresses are left alone.
    pub revision: Revision,
    /// Names of the addresses in use there, those being set up included.
    pub running: Vec<AddressName>,
}

/// An address to allocate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocateAddress {
    /// The idempotency key: the same name, host, tenant and segment get the same address again.
    pub name: AddressName,
    /// Where the endpoint is.
    pub host: HostName,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which part of the tenant.
    pub segment: SegmentId,
    /// Only from this network.
    #[serde(default)]
    pub network: Option<NetworkName>,
    /// Exactly this address.
    #[serde(default)]
    pub ip: Option<IpAddr>,
}

/// An address to release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseAddress {
    /// Its name, or the address itself as text.
    pub address: AddressName,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    /// Its id.
    pub id: TenantId,
    /// Its labels (namespace labels).
    #[serde(default)]
    pub labels: Labels,
}

/// Which tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRef {
    /// Its id.
    pub id: TenantId,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSpec {
    /// Its tenant, which must exist.
    pub tenant: TenantId,
    /// Its id.
    pub id: SegmentId,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
}

/// Which segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its id.
    pub id: SegmentId,
}

/// Which policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// Its name.
    pub name: PolicyName,
}

/// Something that has an address and is subject to policy: a pod or a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its segment.
    pub segment: SegmentId,
    /// The host it is on.
    pub host: HostName,
    /// Its labels (pod labels).
    #[serde(default)]
    pub labels: Labels,
    /// Its named ports.
    #[serde(default)]
    pub ports: Vec<NamedPort>,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Protocol of the port.
    pub protocol: crate::policy::Protocol,
    /// The number, 1 to 65535.
    pub port: u16,
}

/// Which endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRef {
    /// Its address.
    pub ip: IpAddr,
}

/// A virtual IP that somebody wants answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// Its name (`<service>.<namespace>` when it comes from Kubernetes).
    pub name: VipName,
    /// The address.
    pub ip: IpAddr,
    /// Hosts that may answer; empty = any host that is up.
    #[serde(default)]
    pub candidates: Vec<HostName>,
}

/// Which VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipRef {
    /// Its name.
    pub name: VipName,
}

/// A VIP to put on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignVip {
    /// Which VIP.
    pub name: VipName,
    /// Which host.
    pub host: HostName,
    /// The term the task decided in.
    pub term: Term,
}

/// A VIP to take off its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnassignVip {
    /// Which VIP.
    pub name: VipName,
    /// The term the task decided in.
    pub term: Term,
}

/// A router to assign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignRouter {
    /// The prefix that is routed.
    #[serde(with = "crate::prefix::json")]
    pub prefix: IpNet,
    /// The route table or zone the route is in.
    pub table: TableId,
    /// The host that forwards.
    pub host: HostName,
    /// The term the task decided in.
    pub term: Term,
}

/// A router to withdraw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnassignRouter {
    /// The prefix that was routed.
    #[serde(with = "crate::prefix::json")]
    pub prefix: IpNet,
    /// The route table or zone.
    pub table: TableId,
    /// The term the task decided in.
    pub term: Term,
}

/// End what is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndCooldowns {
    /// The term the task decided in.
    pub term: Term,
}

/// How long the history is kept; `None`: for ever. What exceeds either bound may be purged, up to the
/// last signed checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Longest age of a record, milliseconds.
    pub age_ms: Option<u64>,
    /// Largest size of the history on a replica's disk, bytes.
    pub bytes: Option<u64>,
}

/// A checkpoint on which the replicas agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignCheckpoint {
    /// Term in which the task decided.
    pub term: Term,
    /// Revision of the checkpoint.
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    /// Digest of the state there.
    pub state_digest: Digest,
}

/// A member to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// `host:port` of its peer listener.
    pub peer: String,
    /// The highest id among Raft's present members: the new one is higher.
    pub floor: u64,
    /// The member in whose place it comes.
    #[serde(default)]
    pub replaces: Option<u64>,
}

/// A data directory's claim to a member's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimMember {
    /// The id.
    pub id: u64,
    /// What the data directory calls itself.
    pub nonce: String,
    /// `host:port` of its peer listener.
    pub peer: String,
}

/// A member by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRef {
    /// The id.
    pub id: u64,
}

/// Go on allocating.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeAllocation {}
