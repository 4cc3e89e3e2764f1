//! The commands that change the state: one variant per command. The JSON form is what `POST /v1/batch` takes
//! (`{"AllocateAddress": {"name": …}}`).
//!
//! The wire form numbers variants and fields by position. Frozen: append variants, never edit one.
//! To change a command, add a new variant that requires a newer version ([`Command::RaiseVersion`]).

mod addresses;
mod cluster;
mod hosts;
mod meta;
mod policies;
mod reports;
mod sources;
mod tenants;
mod topology;
mod vips;

use serde::{Deserialize, Serialize};

pub use crate::labels::Labels;
use crate::policy::Policy;
use crate::topology::TopologySpec;
pub use addresses::{AllocateAddress, EndCooldowns, ReleaseAddress};
pub use cluster::{
    AddMember, ClaimMember, EndHold, MemberRef, ResumeAllocation, Retention, SignCheckpoint,
};
pub use hosts::{
    EnrolAgent, HostChange, HostSource, HostSpec, HostState, RemoveHost, SetHostState,
};
pub use meta::{Access, CommandMeta};
pub use policies::{Endpoint, EndpointRef, NamedPort, PolicyRef};
pub use reports::{Attached, ClaimReserve, HostReport, ReportAttachments};
pub use sources::{FollowKubernetes, ImportObject, Imported, ObjectKey, Source, WithdrawObject};
pub use tenants::{SegmentRef, SegmentSpec, TenantRef, TenantSpec};
pub use topology::{AgentSettingsChange, Blackout, RaiseVersion, ReserveServices, SettingsChange};
pub use vips::{
    AssignRouter, AssignVip, IpFamily, PlaceVip, SetVipPools, UnassignRouter, UnassignVip,
    VipFromPool, VipPoolSpec, VipRef, VipSpec,
};

/// One request to change the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// Sets or replaces the topology. Everything in use is kept, or the change is refused as a whole.
    SetTopology(TopologySpec),
    /// Excludes a range from allocation.
    AddBlackout(Blackout),
    /// Ends a blackout. The CIDR must match one that was added.
    RemoveBlackout(Blackout),
    /// Changes cluster settings.
    ChangeSettings(SettingsChange),
    /// Enables the behaviour of a version, which every replica must support.
    RaiseVersion(RaiseVersion),
    /// Adds a host and places it in a prefix group of every network with an eligible one.
    AddHost(HostSpec),
    /// Changes a host's labels, addresses or info.
    UpdateHost(HostChange),
    /// Marks a host up, down or draining.
    SetHostState(SetHostState),
    /// Removes a host; with `force`, also the addresses allocated on it.
    RemoveHost(RemoveHost),
    /// Reports the addresses in use on a host; allocated addresses that are not in use are released.
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
    RemovePolicy(PolicyRef),
    /// Creates or replaces an endpoint.
    SetEndpoint(Endpoint),
    /// Removes an endpoint. Idempotent.
    RemoveEndpoint(EndpointRef),
    /// Creates or replaces the request for a VIP.
    RequestVip(VipSpec),
    /// Assigns a VIP to a host for the length of a lease, or renews the lease. Until version 3.
    AssignVip(AssignVip),
    /// Unassigns a VIP from its host. Until version 3.
    UnassignVip(UnassignVip),
    RemoveVip(VipRef),
    /// Makes a host the router of a prefix in a route table.
    AssignRouter(AssignRouter),
    /// Withdraws the router of a prefix.
    UnassignRouter(UnassignRouter),
    /// Ends cool-downs that have expired and returns empty blocks to their groups.
    EndCooldowns(EndCooldowns),
    /// Sets how long the history is kept.
    SetRetention(Retention),
    /// Signs a checkpoint, before which the history may be purged.
    SignCheckpoint(SignCheckpoint),
    /// Assigns an id to a new member. Raft's membership changes separately.
    AddMember(AddMember),
    /// Binds a member's id to a data directory, permanently.
    ClaimMember(ClaimMember),
    /// Retires a member's id. Idempotent.
    RemoveMember(MemberRef),
    /// Ends the hold on allocation after a restore without waiting for further reports.
    ResumeAllocation(ResumeAllocation),
    /// Reports names and addresses in use on a host; releases allocated ones that are not in use, and adopts those in
    /// use that are not allocated.
    ReportAttachments(ReportAttachments),
    /// Renames a reserve address that was used while its host was cut off.
    ClaimReserve(ClaimReserve),
    /// Changes the settings for agents.
    ChangeAgentSettings(AgentSettingsChange),
    /// Ends the hold after a restore once its time limit has passed.
    EndHold(EndHold),
    /// Enrols an agent for its host. Idempotent.
    EnrolAgent(EnrolAgent),
    /// Sets the service ranges: no endpoint, host or network gets addresses in them. Idempotent.
    ReserveServices(ReserveServices),
    /// Creates or changes an object as its source outside wants it. Idempotent.
    ImportObject(ImportObject),
    /// Removes an object whose source no longer exists.
    WithdrawObject(WithdrawObject),
    /// Records which Kubernetes cluster is followed, and confirms what was held back. Idempotent.
    FollowKubernetes(FollowKubernetes),
    /// Moves a VIP from one host to another. Its leases are not in the log.
    PlaceVip(PlaceVip),
    /// Sets the pools of addresses for VIPs. VIPs keep the addresses that they have. Idempotent.
    SetVipPools(SetVipPools),
    /// Creates or replaces the request for a VIP whose address is taken from a pool. It keeps an address that it has
    /// from there. Idempotent.
    RequestVipFromPool(VipFromPool),
}
