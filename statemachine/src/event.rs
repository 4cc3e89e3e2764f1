//! What happened: the only thing that changes the state, the content of the history and the feed.
//!
//! Frozen like [`crate::command`]: append variants, never edit one.

mod addresses;
mod cluster;
mod hosts;
mod meta;
mod policies;
mod tenants;
mod topology;
mod vips;

use serde::{Deserialize, Serialize};

use crate::command::{Endpoint, Retention, VipSpec};
use crate::policy::Policy;
use crate::settings::{AgentSettings, Settings};
pub use crate::topic::Topic;
pub use addresses::{
    AddressAdopted, AddressAllocated, AddressClaimed, AddressReleased, BlockAssigned,
    BlockReleased, CooldownsEnded, ReleaseReason,
};
pub use cluster::{
    AllocationResumed, CheckpointSigned, MemberAdded, MemberClaimed, MemberRemoved, Restored,
    ResumedBy,
};
pub use hosts::{
    AgentEnrolled, Conflict, ConflictsReported, HostAdded, HostRef, HostRemoved, HostReported,
    HostUpdated, Place,
};
pub use meta::EventMeta;
pub use policies::{EndpointRemoved, PolicyRemoved};
pub use tenants::{SegmentCreated, SegmentDeleted, TenantCreated, TenantDeleted};
pub use topology::{
    BlackoutAdded, BlackoutRemoved, HostPlaces, ServicesReserved, TopologySet, VersionRaised,
};
pub use vips::{RouterAssigned, RouterUnassigned, VipAssigned, VipRemoved, VipUnassigned};

/// One change of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Event {
    /// The topology is now this one.
    TopologySet(TopologySet),
    /// A range is excluded from allocation.
    BlackoutAdded(BlackoutAdded),
    /// A range is allocated from again.
    BlackoutRemoved(BlackoutRemoved),
    /// Behaviour of this version is on.
    VersionRaised(VersionRaised),
    /// Settings are now these.
    SettingsChanged(Settings),
    HostAdded(HostAdded),
    /// A host's facts or places changed.
    HostUpdated(HostUpdated),
    /// A host does not answer.
    HostDown(HostRef),
    /// A host is in service.
    HostUp(HostRef),
    /// A host is being emptied.
    HostDraining(HostRef),
    /// A host is gone.
    HostRemoved(HostRemoved),
    /// A block belongs to a host and an owner now.
    BlockAssigned(BlockAssigned),
    /// A block is free again.
    BlockReleased(BlockReleased),
    /// An address belongs to a name now.
    AddressAllocated(AddressAllocated),
    /// An address belongs to nobody now.
    AddressReleased(AddressReleased),
    /// Addresses released until then may be given out again.
    CooldownsEnded(CooldownsEnded),
    /// A tenant exists with these labels.
    TenantCreated(TenantCreated),
    /// A tenant is gone.
    TenantDeleted(TenantDeleted),
    /// A segment exists with these labels.
    SegmentCreated(SegmentCreated),
    /// A segment is gone.
    SegmentDeleted(SegmentDeleted),
    /// A policy is in force.
    PolicySet(Policy),
    /// A policy is gone.
    PolicyRemoved(PolicyRemoved),
    /// An endpoint exists like this.
    EndpointSet(Endpoint),
    /// An endpoint is gone.
    EndpointRemoved(EndpointRemoved),
    /// A VIP is wanted.
    VipRequested(VipSpec),
    /// A VIP is on a host, or its lease was renewed.
    VipAssigned(VipAssigned),
    /// A VIP is on no host.
    VipUnassigned(VipUnassigned),
    /// A VIP is no longer wanted.
    VipRemoved(VipRemoved),
    /// A host forwards for a prefix.
    RouterAssigned(RouterAssigned),
    /// No host forwards for a prefix.
    RouterUnassigned(RouterUnassigned),
    /// The history is kept for so long.
    RetentionSet(Retention),
    /// The replicas agree on a checkpoint.
    CheckpointSigned(CheckpointSigned),
    /// A member got its id.
    MemberAdded(MemberAdded),
    /// A member's id belongs to a data directory.
    MemberClaimed(MemberClaimed),
    /// A member is gone, and its id with it.
    MemberRemoved(MemberRemoved),
    /// The cluster begins with a backup of another.
    Restored(Restored),
    /// A host has reported after a restore.
    HostReported(HostReported),
    /// Allocation goes on after a restore.
    AllocationResumed(AllocationResumed),
    /// An address that ran without being allocated belongs to who uses it.
    AddressAdopted(AddressAdopted),
    /// An address of a reserve has been in use for a while.
    AddressClaimed(AddressClaimed),
    /// What a host runs and cannot be given.
    ConflictsReported(ConflictsReported),
    /// Settings of what concerns agents are now these.
    AgentSettingsChanged(AgentSettings),
    /// An agent speaks for a host now.
    AgentEnrolled(AgentEnrolled),
    /// The ranges of services are these now.
    ServicesReserved(ServicesReserved),
}
