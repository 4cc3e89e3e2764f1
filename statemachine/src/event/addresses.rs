//! Events about blocks and addresses.

use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::entry::{Millis, Revision};
use crate::name::{AddressName, HostName, NetworkName, SegmentId, TenantId};

/// A block was assigned to a host and an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockAssigned {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    pub network: NetworkName,
    /// CIDR of the leaf group it lies in.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub group: IpNet,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
}

/// A block was returned to its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockReleased {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    pub host: HostName,
    /// Not assigned again before this time (later than the event only after an eviction).
    pub reusable_at: Millis,
}

/// An address was allocated to a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddressAllocated {
    pub name: AddressName,
    pub ip: IpAddr,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub block: IpNet,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
}

/// An address was released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddressReleased {
    pub name: AddressName,
    pub ip: IpAddr,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub block: IpNet,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    pub reason: ReleaseReason,
}

/// Why an address was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ReleaseReason {
    /// A client released it.
    Requested,
    /// Its host was removed by force.
    Evicted,
    /// It is missing from its host's report, which is based on this revision.
    Reported(Revision),
    /// It was held in reserve, and is now in use (version 3). Only in responses to audit queries.
    Claimed,
}

/// A free address that was in use without an allocation was allocated to its user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddressAdopted {
    pub name: AddressName,
    pub ip: IpAddr,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub block: IpNet,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// Revision that the host's report is based on.
    pub reported: Revision,
}

/// A reserve address is in use, and has been for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddressClaimed {
    /// The new name of the address.
    pub name: AddressName,
    pub reserve: AddressName,
    pub ip: IpAddr,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub block: IpNet,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// When the use began, by the host's clock: before the event.
    pub since: Millis,
}

/// Addresses released until a given time may be allocated again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CooldownsEnded {
    /// Applies to addresses released at or before this time.
    pub released_until: Millis,
}
