//! Commands about hosts, their states and the agents enrolled for them.

use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::entry::Term;
use crate::labels::Labels;
use crate::name::{HostName, InstanceId};

/// Who manages a host: decides who may remove it without confirmation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HostSource {
    /// Added by an operator, over the API or the CLI.
    #[default]
    Operator,
    /// Declared in a topology document.
    Topology,
    /// A Kubernetes Node: the host is removed with it.
    Kubernetes,
}

/// A host to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Its name (the Kubernetes node name). Unique.
    pub name: HostName,
    /// Its address in the physical network. Unique.
    pub ip: IpAddr,
    /// Further addresses (the other family, other links). Unique.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Labels; they select the prefix group.
    #[serde(default)]
    pub labels: Labels,
    /// Free-form facts, stored and displayed.
    #[serde(default)]
    pub info: Labels,
    #[serde(default)]
    pub source: HostSource,
}

/// New facts about a host; absent fields do not change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HostChange {
    pub name: HostName,
    #[serde(default)]
    pub ip: Option<IpAddr>,
    #[serde(default)]
    pub addresses: Option<Vec<IpAddr>>,
    /// New labels, replacing the old ones. The host must remain eligible for the groups where it has blocks.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// New facts, replacing the old ones.
    #[serde(default)]
    pub info: Option<Labels>,
}

/// Whether a host may be assigned VIPs and routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// In service.
    #[default]
    Up,
    /// Not responding.
    Down,
    /// Being drained: gets no new VIP or router assignment; addresses are still allocated (DaemonSets).
    Draining,
}

impl HostState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Draining];

    /// Its name in JSON, queries and text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
        }
    }
}

impl HostSource {
    /// Its name in JSON and text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Topology => "topology",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// A host's new state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetHostState {
    pub name: HostName,
    pub state: HostState,
    /// Only if a leader task sets the state: the term in which it decided.
    #[serde(default)]
    pub term: Option<Term>,
}

/// A host to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveHost {
    pub name: HostName,
    /// Evict: release the addresses on the host instead of refusing. The history records it as an eviction.
    #[serde(default)]
    pub force: bool,
}

/// An agent to enrol for a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolAgent {
    /// The host, which must exist.
    pub host: HostName,
    /// Id of the agent's state directory.
    pub instance: InstanceId,
    /// The agent that it replaces, because that one no longer sends heartbeats.
    #[serde(default)]
    pub replaces: Option<InstanceId>,
}
