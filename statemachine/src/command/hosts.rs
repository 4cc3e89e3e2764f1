//! Commands about hosts, their states and the agents that speak for them.

use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::entry::Term;
use crate::labels::Labels;
use crate::name::{HostName, InstanceId};

/// Who manages a host: decides who may remove it without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HostSource {
    /// Added by an operator, over the API or the CLI.
    #[default]
    Operator,
    /// Declared in a topology document.
    Topology,
    /// A Kubernetes Node: removed with it.
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
    /// Labels: choose the prefix group.
    #[serde(default)]
    pub labels: Labels,
    /// Free-form facts, kept and shown.
    #[serde(default)]
    pub info: Labels,
    #[serde(default)]
    pub source: HostSource,
}

/// New facts about a host; absent ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HostChange {
    pub name: HostName,
    #[serde(default)]
    pub ip: Option<IpAddr>,
    #[serde(default)]
    pub addresses: Option<Vec<IpAddr>>,
    /// New labels, replacing the old ones. The host must still be eligible where it has blocks.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// New facts, replacing the old ones.
    #[serde(default)]
    pub info: Option<Labels>,
}

/// Whether a host may be given VIPs and routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// In service.
    #[default]
    Up,
    /// Not answering.
    Down,
    /// Being emptied: gets no new VIP or router duty; addresses are still allocated (DaemonSets).
    Draining,
}

/// A host's new state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetHostState {
    pub name: HostName,
    pub state: HostState,
    /// Set by leader tasks: the term in which they decided.
    #[serde(default)]
    pub term: Option<Term>,
}

/// A host to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveHost {
    pub name: HostName,
    /// Evict: release what lives on it instead of refusing. Recorded as such.
    #[serde(default)]
    pub force: bool,
}

/// An agent that wants to speak for a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolAgent {
    /// The host, which must exist.
    pub host: HostName,
    /// What the agent's state directory calls itself.
    pub instance: InstanceId,
    /// The agent in whose place it comes, because nothing is heard of that one any more.
    #[serde(default)]
    pub replaces: Option<InstanceId>,
}
