//! Events: the only thing that changes the state, and the content of the history and the feed.
//!
//! Frozen like [`crate::command`]: append variants, never edit one.

mod addresses;
mod cluster;
mod hosts;
mod meta;
mod policies;
mod sources;
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
pub use sources::SourceSet;
pub use tenants::{SegmentCreated, SegmentDeleted, TenantCreated, TenantDeleted};
pub use topology::{
    BlackoutAdded, BlackoutRemoved, HostPlaces, ServicesReserved, TopologySet, VersionRaised,
};
pub use vips::{
    RouterAssigned, RouterUnassigned, VipAssigned, VipPlaced, VipPool, VipPoolsSet, VipReason,
    VipRemoved, VipUnassigned,
};

/// One change of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Event {
    /// The topology was set or replaced.
    TopologySet(TopologySet),
    /// A range was excluded from allocation.
    BlackoutAdded(BlackoutAdded),
    /// A range is no longer excluded from allocation.
    BlackoutRemoved(BlackoutRemoved),
    /// The behaviour of a version was enabled.
    VersionRaised(VersionRaised),
    /// The cluster settings changed.
    SettingsChanged(Settings),
    HostAdded(HostAdded),
    /// A host's facts or places changed.
    HostUpdated(HostUpdated),
    /// A host does not respond.
    HostDown(HostRef),
    /// A host is in service.
    HostUp(HostRef),
    /// A host is being drained.
    HostDraining(HostRef),
    /// A host was removed.
    HostRemoved(HostRemoved),
    /// A block was assigned to a host and an owner.
    BlockAssigned(BlockAssigned),
    /// A block was returned to its group.
    BlockReleased(BlockReleased),
    /// An address was allocated to a name.
    AddressAllocated(AddressAllocated),
    /// An address was released.
    AddressReleased(AddressReleased),
    /// Addresses released until a given time may be allocated again.
    CooldownsEnded(CooldownsEnded),
    /// A tenant was created, or its labels were replaced.
    TenantCreated(TenantCreated),
    /// A tenant was deleted.
    TenantDeleted(TenantDeleted),
    /// A segment was created, or its labels were replaced.
    SegmentCreated(SegmentCreated),
    /// A segment was deleted.
    SegmentDeleted(SegmentDeleted),
    /// A policy was created or replaced.
    PolicySet(Policy),
    /// A policy was removed.
    PolicyRemoved(PolicyRemoved),
    /// An endpoint was created or replaced.
    EndpointSet(Endpoint),
    /// An endpoint was removed.
    EndpointRemoved(EndpointRemoved),
    /// A VIP was requested.
    VipRequested(VipSpec),
    /// A VIP was assigned to a host, or its lease was renewed.
    VipAssigned(VipAssigned),
    /// A VIP was unassigned from its host.
    VipUnassigned(VipUnassigned),
    /// The request for a VIP was removed.
    VipRemoved(VipRemoved),
    /// A host became the router of a prefix.
    RouterAssigned(RouterAssigned),
    /// The router of a prefix was withdrawn.
    RouterUnassigned(RouterUnassigned),
    /// The retention of the history was set.
    RetentionSet(Retention),
    /// The replicas agreed on a checkpoint.
    CheckpointSigned(CheckpointSigned),
    /// A new member was assigned an id.
    MemberAdded(MemberAdded),
    /// A member's id was bound to a data directory.
    MemberClaimed(MemberClaimed),
    /// A member was removed, and its id retired.
    MemberRemoved(MemberRemoved),
    /// The cluster was restored from a backup of another cluster.
    Restored(Restored),
    /// A host has reported after a restore.
    HostReported(HostReported),
    /// Allocation resumed after a restore.
    AllocationResumed(AllocationResumed),
    /// An address that was in use without an allocation was allocated to its user.
    AddressAdopted(AddressAdopted),
    /// A reserve address is in use, and has been for a while.
    AddressClaimed(AddressClaimed),
    /// The addresses that a host uses but cannot be allocated.
    ConflictsReported(ConflictsReported),
    /// The settings for agents changed.
    AgentSettingsChanged(AgentSettings),
    /// An agent was enrolled for a host.
    AgentEnrolled(AgentEnrolled),
    /// The service ranges were set.
    ServicesReserved(ServicesReserved),
    /// An object belongs to a source.
    SourceSet(SourceSet),
    /// A VIP moved from one host to another.
    VipPlaced(VipPlaced),
    /// The pools of addresses for VIPs were set.
    VipPoolsSet(VipPoolsSet),
}
