//! What kind of event each one is: its name, its topic, the version that brought it, and who needs to know it.

use super::{Event, Topic};
use crate::name::HostName;

impl Event {
    /// The topic by which followers subscribe to it.
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

    /// The name, as in the feed and in `?type=`.
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
