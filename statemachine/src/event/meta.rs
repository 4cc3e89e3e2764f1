//! Properties of each kind of event: one table, a row per event.

use super::{Event, Topic};
use crate::name::HostName;

/// Properties of a kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMeta {
    /// The variant's name, as in the feed and in `?type=`.
    pub name: &'static str,
    /// The version that introduced it: a program that supports only earlier versions does not know it.
    pub since: u16,
    /// Whether a follower that does not know the event may skip it: routes, policies and attachments do not depend on
    /// it. Mark a new event optional only after checking that. (Fields added to an event must be such that older
    /// followers may ignore them; otherwise add a new event.)
    pub optional: bool,
    /// The topic by which followers subscribe to it.
    pub topic: Topic,
}

macro_rules! events {
    (@yes) => { true };
    (@no) => { false };
    (@row $name:ident $since:literal $optional:ident $topic:ident) => {
        EventMeta {
            name: stringify!($name),
            since: $since,
            optional: events!(@$optional),
            topic: Topic::$topic,
        }
    };
    ($($name:ident $since:literal $optional:ident $topic:ident;)*) => {
        impl Event {
            /// Properties of all events, in the order of the wire form.
            pub const TABLE: &[EventMeta] = &[$(events!(@row $name $since $optional $topic),)*];

            /// Properties of the event's kind.
            #[must_use]
            pub fn meta(&self) -> &'static EventMeta {
                match self {
                    $(Self::$name(_) => const { &events!(@row $name $since $optional $topic) })*
                }
            }
        }
    };
}

events! {
//  event                 since  optional  topic
    TopologySet           1      no        Topology;
    BlackoutAdded         1      no        Topology;
    BlackoutRemoved       1      no        Topology;
    VersionRaised         1      no        Topology;
    SettingsChanged       1      no        Topology;
    HostAdded             1      no        Hosts;
    HostUpdated           1      no        Hosts;
    HostDown              1      no        Hosts;
    HostUp                1      no        Hosts;
    HostDraining          1      no        Hosts;
    HostRemoved           1      no        Hosts;
    BlockAssigned         1      no        Blocks;
    BlockReleased         1      no        Blocks;
    AddressAllocated      1      no        Addresses;
    AddressReleased       1      no        Addresses;
    CooldownsEnded        1      no        Addresses;
    TenantCreated         1      no        Tenants;
    TenantDeleted         1      no        Tenants;
    SegmentCreated        1      no        Tenants;
    SegmentDeleted        1      no        Tenants;
    PolicySet             1      no        Policies;
    PolicyRemoved         1      no        Policies;
    EndpointSet           1      no        Endpoints;
    EndpointRemoved       1      no        Endpoints;
    VipRequested          1      no        Vips;
    VipAssigned           1      no        Vips;
    VipUnassigned         1      no        Vips;
    VipRemoved            1      no        Vips;
    RouterAssigned        1      no        Routers;
    RouterUnassigned      1      no        Routers;
    RetentionSet          2      yes       Cluster;
    CheckpointSigned      2      yes       Cluster;
    MemberAdded           2      yes       Cluster;
    MemberClaimed         2      yes       Cluster;
    MemberRemoved         2      yes       Cluster;
    Restored              2      no        Cluster;
    HostReported          2      yes       Hosts;
    AllocationResumed     2      yes       Cluster;
    AddressAdopted        3      no        Addresses;
    AddressClaimed        3      no        Addresses;
    ConflictsReported     3      no        Hosts;
    AgentSettingsChanged  3      no        Topology;
    AgentEnrolled         4      yes       Hosts;
    ServicesReserved      4      yes       Topology;
    SourceSet             4      yes       Sources;
    VipPlaced             4      yes       Vips;
    VipPoolsSet           4      yes       Topology;
}

impl Event {
    /// The topic by which followers subscribe to it.
    #[must_use]
    pub fn topic(&self) -> Topic {
        self.meta().topic
    }

    /// The variant's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.meta().name
    }

    /// The host that this event concerns, if it concerns no other: the feed's host filter uses it. Blocks, hosts,
    /// policies and endpoints concern every host (routes and sets), and so does the release of an address: every host
    /// drops its connections.
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
