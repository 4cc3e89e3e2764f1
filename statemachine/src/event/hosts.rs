//! Events about hosts and the reports of their agents.

use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::command::HostSource;
use crate::entry::Revision;
use crate::labels::Labels;
use crate::name::{AddressName, HostName, InstanceId, NetworkName};
use crate::refusal::Refusal;

/// The leaf prefix group, named by its CIDR, from which a host gets addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Place {
    pub network: NetworkName,
    /// CIDR of the leaf group.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Cidr"))]
    pub group: IpNet,
}

/// A host was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostAdded {
    pub name: HostName,
    pub ip: IpAddr,
    pub addresses: Vec<IpAddr>,
    pub labels: Labels,
    pub info: Labels,
    pub source: HostSource,
    pub places: Vec<Place>,
}

/// A host's facts or places changed: all of them, with their new values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostUpdated {
    pub name: HostName,
    pub ip: IpAddr,
    pub addresses: Vec<IpAddr>,
    pub labels: Labels,
    pub info: Labels,
    pub places: Vec<Place>,
}

/// A host whose state changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostRef {
    pub name: HostName,
}

/// A host was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostRemoved {
    pub name: HostName,
    /// Whether live addresses were released with it (`force`).
    pub evicted: bool,
}

/// An agent was enrolled for a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentEnrolled {
    pub host: HostName,
    pub instance: InstanceId,
    /// The agent that it replaces.
    pub replaces: Option<InstanceId>,
}

/// A host has reported after a restore, and all addresses that it uses are allocated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostReported {
    pub host: HostName,
    /// Revision that the report is based on.
    pub revision: Revision,
}

/// All current conflicts of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConflictsReported {
    pub host: HostName,
    /// Revision that its report is based on.
    pub reported: Revision,
    /// In the order of the report, at most [`crate::limits::CONFLICTS_KEPT_MAX`]; empty: none are left.
    pub conflicts: Vec<Conflict>,
}

/// An address that is in use on a host and cannot be allocated to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Conflict {
    pub name: AddressName,
    pub ip: IpAddr,
    /// Why it cannot be allocated.
    pub why: Refusal,
}
