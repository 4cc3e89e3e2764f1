//! What happened: the only thing that changes the state, the content of the history and the feed.
//!
//! Frozen like [`crate::command`]: append variants, never edit one.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::ServicesReserved;
use crate::attachment::{AddressAdopted, AddressClaimed, AgentSettings, ConflictsReported};
use crate::command::{Endpoint, HostSource, Labels, Retention, VipSpec};
use crate::enrolment::AgentEnrolled;
use crate::entry::{Digest, Millis, Revision};
use crate::name::{
    AddressName, HostName, NetworkName, PolicyName, SegmentId, TableId, TenantId, VipName,
};
use crate::policy::Policy;
use crate::settings::Settings;
pub use crate::topic::Topic;
use crate::topology::TopologySpec;

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// A host was added.
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

impl Event {
    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> Topic {
        match self {
            Self::TopologySet(_)
            | Self::BlackoutAdded(_)
            | Self::BlackoutRemoved(_)
            | Self::VersionRaised(_)
            | Self::SettingsChanged(_)
            | Self::AgentSettingsChanged(_)
            | Self::ServicesReserved(_) => Topic::Topology,
            Self::HostAdded(_)
            | Self::HostUpdated(_)
            | Self::HostDown(_)
            | Self::HostUp(_)
            | Self::HostDraining(_)
            | Self::HostRemoved(_)
            | Self::HostReported(_)
            | Self::ConflictsReported(_)
            | Self::AgentEnrolled(_) => Topic::Hosts,
            Self::BlockAssigned(_) | Self::BlockReleased(_) => Topic::Blocks,
            Self::AddressAllocated(_)
            | Self::AddressReleased(_)
            | Self::AddressAdopted(_)
            | Self::AddressClaimed(_)
            | Self::CooldownsEnded(_) => Topic::Addresses,
            Self::TenantCreated(_)
            | Self::TenantDeleted(_)
            | Self::SegmentCreated(_)
            | Self::SegmentDeleted(_) => Topic::Tenants,
            Self::PolicySet(_) | Self::PolicyRemoved(_) => Topic::Policies,
            Self::EndpointSet(_) | Self::EndpointRemoved(_) => Topic::Endpoints,
            Self::VipRequested(_)
            | Self::VipAssigned(_)
            | Self::VipUnassigned(_)
            | Self::VipRemoved(_) => Topic::Vips,
            Self::RouterAssigned(_) | Self::RouterUnassigned(_) => Topic::Routers,
            Self::RetentionSet(_)
            | Self::CheckpointSigned(_)
            | Self::MemberAdded(_)
            | Self::MemberClaimed(_)
            | Self::MemberRemoved(_)
            | Self::Restored(_)
            | Self::AllocationResumed(_) => Topic::Cluster,
        }
    }

    /// The version of behaviour that brought it: a program that knows only an earlier one does not know it.
    #[must_use]
    pub fn since(&self) -> u16 {
        match self {
            Self::AgentEnrolled(_) | Self::ServicesReserved(_) => 4,
            Self::AddressAdopted(_)
            | Self::AddressClaimed(_)
            | Self::ConflictsReported(_)
            | Self::AgentSettingsChanged(_) => 3,
            Self::RetentionSet(_)
            | Self::CheckpointSigned(_)
            | Self::MemberAdded(_)
            | Self::MemberClaimed(_)
            | Self::MemberRemoved(_)
            | Self::Restored(_)
            | Self::HostReported(_)
            | Self::AllocationResumed(_) => 2,
            _ => 1,
        }
    }

    /// Whether a follower that does not know it may leave it out: routes, policies and attachments are the same
    /// with it. A new event is not optional until somebody has made sure. (Members that are added to an event
    /// must be such that older followers may ignore them; otherwise it is a new event.)
    #[must_use]
    pub fn is_optional(&self) -> bool {
        matches!(
            self,
            Self::RetentionSet(_)
                | Self::CheckpointSigned(_)
                | Self::MemberAdded(_)
                | Self::MemberClaimed(_)
                | Self::MemberRemoved(_)
                | Self::HostReported(_)
                | Self::AllocationResumed(_)
                | Self::AgentEnrolled(_)
                | Self::ServicesReserved(_)
        )
    }

    /// The names of all events, in order.
    pub const NAMES: [&str; 44] = [
        "TopologySet",
        "BlackoutAdded",
        "BlackoutRemoved",
        "VersionRaised",
        "SettingsChanged",
        "HostAdded",
        "HostUpdated",
        "HostDown",
        "HostUp",
        "HostDraining",
        "HostRemoved",
        "BlockAssigned",
        "BlockReleased",
        "AddressAllocated",
        "AddressReleased",
        "CooldownsEnded",
        "TenantCreated",
        "TenantDeleted",
        "SegmentCreated",
        "SegmentDeleted",
        "PolicySet",
        "PolicyRemoved",
        "EndpointSet",
        "EndpointRemoved",
        "VipRequested",
        "VipAssigned",
        "VipUnassigned",
        "VipRemoved",
        "RouterAssigned",
        "RouterUnassigned",
        "RetentionSet",
        "CheckpointSigned",
        "MemberAdded",
        "MemberClaimed",
        "MemberRemoved",
        "Restored",
        "HostReported",
        "AllocationResumed",
        "AddressAdopted",
        "AddressClaimed",
        "ConflictsReported",
        "AgentSettingsChanged",
        "AgentEnrolled",
        "ServicesReserved",
    ];

    /// Its name, as in the feed and in `?type=`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::TopologySet(_) => "TopologySet",
            Self::BlackoutAdded(_) => "BlackoutAdded",
            Self::BlackoutRemoved(_) => "BlackoutRemoved",
            Self::VersionRaised(_) => "VersionRaised",
            Self::SettingsChanged(_) => "SettingsChanged",
            Self::HostAdded(_) => "HostAdded",
            Self::HostUpdated(_) => "HostUpdated",
            Self::HostDown(_) => "HostDown",
            Self::HostUp(_) => "HostUp",
            Self::HostDraining(_) => "HostDraining",
            Self::HostRemoved(_) => "HostRemoved",
            Self::BlockAssigned(_) => "BlockAssigned",
            Self::BlockReleased(_) => "BlockReleased",
            Self::AddressAllocated(_) => "AddressAllocated",
            Self::AddressReleased(_) => "AddressReleased",
            Self::CooldownsEnded(_) => "CooldownsEnded",
            Self::TenantCreated(_) => "TenantCreated",
            Self::TenantDeleted(_) => "TenantDeleted",
            Self::SegmentCreated(_) => "SegmentCreated",
            Self::SegmentDeleted(_) => "SegmentDeleted",
            Self::PolicySet(_) => "PolicySet",
            Self::PolicyRemoved(_) => "PolicyRemoved",
            Self::EndpointSet(_) => "EndpointSet",
            Self::EndpointRemoved(_) => "EndpointRemoved",
            Self::VipRequested(_) => "VipRequested",
            Self::VipAssigned(_) => "VipAssigned",
            Self::VipUnassigned(_) => "VipUnassigned",
            Self::VipRemoved(_) => "VipRemoved",
            Self::RouterAssigned(_) => "RouterAssigned",
            Self::RouterUnassigned(_) => "RouterUnassigned",
            Self::RetentionSet(_) => "RetentionSet",
            Self::CheckpointSigned(_) => "CheckpointSigned",
            Self::MemberAdded(_) => "MemberAdded",
            Self::MemberClaimed(_) => "MemberClaimed",
            Self::MemberRemoved(_) => "MemberRemoved",
            Self::Restored(_) => "Restored",
            Self::HostReported(_) => "HostReported",
            Self::AllocationResumed(_) => "AllocationResumed",
            Self::AddressAdopted(_) => "AddressAdopted",
            Self::AddressClaimed(_) => "AddressClaimed",
            Self::ConflictsReported(_) => "ConflictsReported",
            Self::AgentSettingsChanged(_) => "AgentSettingsChanged",
            Self::AgentEnrolled(_) => "AgentEnrolled",
            Self::ServicesReserved(_) => "ServicesReserved",
        }
    }

    /// The one host this event concerns, if it is of interest to no other: what the feed's host
    /// filter goes by. Blocks, hosts, policies and endpoints concern everybody (routes and sets), and so does
    /// the release of an address: every host forgets its connections.
    #[must_use]
    pub fn only_host(&self) -> Option<&HostName> {
        match self {
            Self::AddressAllocated(event) => Some(&event.host),
            Self::AddressAdopted(event) => Some(&event.host),
            Self::AddressClaimed(event) => Some(&event.host),
            _ => None,
        }
    }
}

/// Where a host gets addresses of a network from: the leaf prefix group, named by its CIDR.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The network.
    pub network: NetworkName,
    /// CIDR of the leaf group.
    pub group: IpNet,
}

/// The topology is now this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopologySet {
    /// The document, without hosts and computed CIDRs.
    pub topology: TopologySpec,
    /// Places of all hosts that were there before.
    pub hosts: Vec<HostPlaces>,
}

/// Places of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlaces {
    /// The host.
    pub host: HostName,
    /// Its places, one per network.
    pub places: Vec<Place>,
}

/// A range is excluded from allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlackoutAdded {
    /// The range.
    pub cidr: IpNet,
}

/// A range is allocated from again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlackoutRemoved {
    /// The range.
    pub cidr: IpNet,
}

/// Behaviour of this version is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRaised {
    /// The version.
    pub version: u16,
}

/// A host was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAdded {
    /// Its name.
    pub name: HostName,
    /// Its address.
    pub ip: IpAddr,
    /// Further addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Free-form facts.
    pub info: Labels,
    /// Who manages it.
    pub source: HostSource,
    /// Its places, one per network.
    pub places: Vec<Place>,
}

/// A host's facts or places changed: all of them, as they are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostUpdated {
    /// Its name.
    pub name: HostName,
    /// Its address.
    pub ip: IpAddr,
    /// Further addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Free-form facts.
    pub info: Labels,
    /// Its places, one per network.
    pub places: Vec<Place>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRef {
    /// Its name.
    pub name: HostName,
}

/// A host is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRemoved {
    /// Its name.
    pub name: HostName,
    /// Whether live addresses were taken from it (`force`).
    pub evicted: bool,
}

/// A block belongs to a host and an owner now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAssigned {
    /// The block.
    pub cidr: IpNet,
    /// Its network.
    pub network: NetworkName,
    /// CIDR of the leaf group it lies in.
    pub group: IpNet,
    /// Its host.
    pub host: HostName,
    /// Its owner: the tenant …
    pub tenant: TenantId,
    /// … and the segment.
    pub segment: SegmentId,
}

/// A block is free again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockReleased {
    /// The block.
    pub cidr: IpNet,
    /// The host that had it.
    pub host: HostName,
    /// Not to be assigned before this time (later than the event only after an eviction).
    pub reusable_at: Millis,
}

/// An address belongs to a name now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressAllocated {
    /// The name.
    pub name: AddressName,
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Its host.
    pub host: HostName,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its segment.
    pub segment: SegmentId,
}

/// Why an address was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseReason {
    /// Somebody asked.
    Requested,
    /// Its host was removed by force.
    Evicted,
    /// Its host's report, based on this revision, does not have it.
    Reported(Revision),
    /// It was held in reserve, and is in use now (version 3). Only in answers to audit.
    Claimed,
}

/// An address belongs to nobody now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressReleased {
    /// The name it had.
    pub name: AddressName,
    /// The address.
    pub ip: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Its host.
    pub host: HostName,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its segment.
    pub segment: SegmentId,
    /// Why.
    pub reason: ReleaseReason,
}

/// Addresses released until then may be given out again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CooldownsEnded {
    /// Those released at or before this time.
    pub released_until: Millis,
}

/// A tenant exists with these labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCreated {
    /// Its id.
    pub id: TenantId,
    /// Its labels.
    pub labels: Labels,
}

/// A tenant is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantDeleted {
    /// Its id.
    pub id: TenantId,
}

/// A segment exists with these labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCreated {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its id.
    pub id: SegmentId,
    /// Its labels.
    pub labels: Labels,
}

/// A segment is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentDeleted {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its id.
    pub id: SegmentId,
}

/// A policy is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRemoved {
    /// Its name.
    pub name: PolicyName,
}

/// An endpoint is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRemoved {
    /// Its address.
    pub ip: IpAddr,
    /// The host it was on.
    pub host: HostName,
}

/// A VIP is on a host, or its lease was renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipAssigned {
    /// Its name.
    pub name: VipName,
    /// The address.
    pub ip: IpAddr,
    /// The host.
    pub host: HostName,
    /// Length of the lease from the time of this event, milliseconds.
    pub lease_ms: u64,
}

/// A VIP is on no host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipUnassigned {
    /// Its name.
    pub name: VipName,
    /// The address.
    pub ip: IpAddr,
    /// The host that had it.
    pub host: HostName,
}

/// A VIP is no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipRemoved {
    /// Its name.
    pub name: VipName,
}

/// A host forwards for a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterAssigned {
    /// The prefix.
    pub prefix: IpNet,
    /// The route table or zone.
    pub table: TableId,
    /// The host.
    pub host: HostName,
}

/// No host forwards for a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterUnassigned {
    /// The prefix.
    pub prefix: IpNet,
    /// The route table or zone.
    pub table: TableId,
    /// The host that forwarded.
    pub host: HostName,
}

/// The replicas agree on a checkpoint: the chain of the history vouches for it, so that a history
/// which begins there still verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointSigned {
    /// Revision of the checkpoint.
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    /// Digest of the state there.
    pub state_digest: Digest,
}

/// A member got its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAdded {
    /// The id.
    pub id: u64,
    /// `host:port` of its peer listener.
    pub peer: String,
    /// The member in whose place it comes.
    pub replaces: Option<u64>,
}

/// A member's id belongs to a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberClaimed {
    /// The id.
    pub id: u64,
    /// What the data directory calls itself.
    pub nonce: String,
    /// `host:port` of its peer listener.
    pub peer: String,
}

/// A member is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRemoved {
    /// The id, which is never given again.
    pub id: u64,
}

/// The cluster begins with a backup of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Id of the cluster that the backup is of.
    pub source: String,
    /// Id of this cluster.
    pub cluster: String,
    /// Revision of the backup.
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    /// Digest of the backup file.
    pub backup: Digest,
}

/// A host has reported after a restore, and all that it runs is allocated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReported {
    /// The host.
    pub host: HostName,
    /// Revision that the report is based on.
    pub revision: Revision,
}

/// Why allocation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResumedBy {
    /// All hosts have reported.
    Reports,
    /// An operator said so.
    Operator,
    /// The wait that is set is over (version 3).
    Timeout,
}

/// Allocation goes on after a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationResumed {
    /// Why.
    pub by: ResumedBy,
}
