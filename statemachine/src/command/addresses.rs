//! Commands about addresses: allocate, release, end cool-downs.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::entry::Term;
use crate::name::{AddressName, HostName, NetworkName, SegmentId, TenantId};

/// An address to allocate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AllocateAddress {
    /// The idempotency key: the same name, host, tenant and segment get the same address again.
    pub name: AddressName,
    /// The host that the endpoint runs on.
    pub host: HostName,
    pub tenant: TenantId,
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseAddress {
    /// Its name, or the address itself as text.
    pub address: AddressName,
}

/// End cool-downs that have expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EndCooldowns {
    /// The term in which the leader task decided.
    pub term: Term,
}
