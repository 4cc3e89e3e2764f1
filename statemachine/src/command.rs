//! What can be asked of the state: one variant per command, which is also the JSON that
//! `POST /v1/batch` takes (`{"AllocateAddress": {"name": …}}`).
//!
//! The wire form numbers variants and fields by position. Frozen: append variants, never edit one.
//! A changed command is a new variant that waits for [`Command::RaiseVersion`].

mod addresses;
mod cluster;
mod hosts;
mod meta;
mod policies;
mod reports;
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
pub use tenants::{SegmentRef, SegmentSpec, TenantRef, TenantSpec};
pub use topology::{AgentSettingsChange, Blackout, RaiseVersion, ReserveServices, SettingsChange};
pub use vips::{AssignRouter, AssignVip, UnassignRouter, UnassignVip, VipRef, VipSpec};

/// One request to change the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    RemovePolicy(PolicyRef),
    /// Creates or replaces an endpoint.
    SetEndpoint(Endpoint),
    /// Removes an endpoint. Idempotent.
    RemoveEndpoint(EndpointRef),
    /// Creates or replaces the request for a VIP.
    RequestVip(VipSpec),
    /// Puts a VIP on a host for the length of a lease, or renews the lease.
    AssignVip(AssignVip),
    /// Takes a VIP off its host.
    UnassignVip(UnassignVip),
    RemoveVip(VipRef),
    /// Makes a host the router of a prefix in a route table.
    AssignRouter(AssignRouter),
    /// Withdraws the router of a prefix.
    UnassignRouter(UnassignRouter),
    /// Ends cool-downs that are over and returns emptied blocks to their groups.
    EndCooldowns(EndCooldowns),
    /// Says how long the history is kept.
    SetRetention(Retention),
    /// Agrees on a checkpoint, before which the history may be purged.
    SignCheckpoint(SignCheckpoint),
    /// Gives a new member its id. Raft's membership changes apart from it.
    AddMember(AddMember),
    /// Says which data directory a member's id belongs to, for ever.
    ClaimMember(ClaimMember),
    /// Retires a member's id. Idempotent.
    RemoveMember(MemberRef),
    /// Ends the hold on allocation after a restore without waiting for more hosts.
    ResumeAllocation(ResumeAllocation),
    /// What really runs on a host, with addresses: frees what does not, adopts what is not allocated.
    ReportAttachments(ReportAttachments),
    /// Names an address of the reserve that was used while its host was cut off.
    ClaimReserve(ClaimReserve),
    /// Changes the settings of what concerns agents.
    ChangeAgentSettings(AgentSettingsChange),
    /// Ends the wait for reports after a restore, when it has been long enough.
    EndHold(EndHold),
    /// Makes an agent the one that speaks for its host. Idempotent.
    EnrolAgent(EnrolAgent),
    /// Keeps ranges for services: no endpoint, host or network gets their addresses. Idempotent.
    ReserveServices(ReserveServices),
}
