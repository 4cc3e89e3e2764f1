//! Events about blocks and addresses.

use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::entry::{Millis, Revision};
use crate::name::{AddressName, HostName, NetworkName, SegmentId, TenantId};

/// A block belongs to a host and an owner now.
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

/// A block is free again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockReleased {
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub cidr: IpNet,
    pub host: HostName,
    /// Not to be assigned before this time (later than the event only after an eviction).
    pub reusable_at: Millis,
}

/// An address belongs to a name now.
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

/// An address belongs to nobody now.
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
    /// Somebody asked.
    Requested,
    /// Its host was removed by force.
    Evicted,
    /// Its host's report, based on this revision, does not have it.
    Reported(Revision),
    /// It was held in reserve, and is in use now (version 3). Only in answers to audit.
    Claimed,
}

/// An address that ran without being allocated, and was free, belongs to who uses it.
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

/// An address of a reserve has been in use for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddressClaimed {
    /// The name that it has now.
    pub name: AddressName,
    pub reserve: AddressName,
    pub ip: IpAddr,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub block: IpNet,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// Since when, by the host's clock: before the event.
    pub since: Millis,
}

/// Addresses released until then may be given out again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CooldownsEnded {
    /// Those released at or before this time.
    pub released_until: Millis,
}
