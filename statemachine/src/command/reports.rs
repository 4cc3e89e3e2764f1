//! Commands with an agent's report of the addresses in use on its host.

use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::entry::{Millis, Revision};
use crate::name::{AddressName, HostName, SegmentId, TenantId};

/// An attachment report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HostReport {
    pub host: HostName,
    /// Revision up to which the agent had followed the log when it looked. Later allocations are not affected.
    pub revision: Revision,
    /// Names of the addresses in use there, including those being set up.
    pub running: Vec<AddressName>,
}

/// An address in use on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Attached {
    pub name: AddressName,
    pub ip: IpAddr,
    pub tenant: TenantId,
    pub segment: SegmentId,
}

/// The attachments on a host, with addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportAttachments {
    pub host: HostName,
    /// Revision up to which the agent had followed the log when it looked. Later allocations are not affected.
    pub revision: Revision,
    /// Time of that revision: addresses released later are not adopted.
    pub at: Millis,
    pub running: Vec<Attached>,
    /// Names to keep although the agent cannot report their addresses: those being set up, and those that it does not
    /// manage.
    #[serde(default)]
    pub kept: Vec<AddressName>,
}

/// A reserve address that was used while no quorum was reachable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClaimReserve {
    /// Its name in the reserve; begins with [`crate::name::RESERVE_PREFIX`].
    pub reserve: AddressName,
    /// The name of the attachment that uses it.
    pub name: AddressName,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// When the use began, by the host's clock.
    pub since: Millis,
}
