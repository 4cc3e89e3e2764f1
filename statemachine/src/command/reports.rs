//! Commands with what an agent says about the addresses that are in use on its host.

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
    /// The revision the agent had followed to when it looked. Younger addresses are left alone.
    pub revision: Revision,
    /// Names of the addresses in use there, those being set up included.
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

/// What runs on a host, with addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportAttachments {
    pub host: HostName,
    /// The revision the agent had followed to when it looked. Younger addresses are left alone.
    pub revision: Revision,
    /// Time of that revision: what was released later is not adopted.
    pub at: Millis,
    pub running: Vec<Attached>,
    /// Names that stay although nothing can be said of their addresses: those being set up, and those
    /// that are not the agent's to judge.
    #[serde(default)]
    pub kept: Vec<AddressName>,
}

/// An address of the reserve that was used while no quorum could be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClaimReserve {
    /// The name in reserve; begins with [`crate::name::RESERVE_PREFIX`].
    pub reserve: AddressName,
    /// The name that it was used under.
    pub name: AddressName,
    pub host: HostName,
    pub tenant: TenantId,
    pub segment: SegmentId,
    /// Since when it is used, by the host's clock.
    pub since: Millis,
}
