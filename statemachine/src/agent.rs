//! What agents report about themselves, and what the leader keeps of it. Not replicated.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::entry::Revision;
use crate::name::{HostName, InstanceId};
use crate::version::{self, VERSION_MAX};

/// Key of the agent's version in a host's `info`. A host with this key has an agent.
pub const AGENT_INFO: &str = "agent";

/// Key in a host's `info` that says that the host's agent added the host (`--register`), not an operator.
pub const REGISTERED_INFO: &str = "agent.registered";

/// What an agent sends each second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Heartbeat {
    /// The host that the agent runs on.
    pub host: HostName,
    /// Version of the agent's program, and the newest log version that it supports ([`Heartbeat::version_of`]).
    pub version: String,
    /// Revision up to which the agent has followed the log.
    pub revision: Revision,
    /// The revision that its kernel state matches; `None`: none yet.
    pub applied: Option<Revision>,
    /// Problems that need an operator, one sentence each.
    pub problems: Vec<String>,
}

/// Separates the version of an agent's program from the log version that it supports: build metadata of Semantic
/// Versioning 2.0.0 §10, so that clusters and agents that do not know it ignore it.
const KNOWS: &str = "+log.";

impl Heartbeat {
    /// The version string that this program reports.
    #[must_use]
    pub fn version_of(package: &str) -> String {
        format!("{package}{KNOWS}{VERSION_MAX}")
    }

    /// The newest log version that the agent supports.
    #[must_use]
    pub fn knows(&self) -> u16 {
        let said = self.version.rsplit_once(KNOWS).and_then(|(_, version)| version.parse().ok());
        // Agents report it since version 4.
        said.unwrap_or(version::HEARTBEATS)
    }
}

/// A heartbeat and its age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeartbeatAge {
    /// The latest heartbeat of its host.
    pub heartbeat: Heartbeat,
    /// Milliseconds since the leader received it.
    pub silent_ms: u64,
}

/// An agent that was refused because another agent is enrolled for its host. Not replicated: the leader keeps it for
/// a while, so that operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefusedAgent {
    pub host: HostName,
    /// Id of its state directory.
    pub instance: InstanceId,
    /// The name of the machine it runs on.
    pub machine: String,
}

/// A pod, as the CNI plugin knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// Empty: not known; not every container runtime says it.
    #[serde(default)]
    pub uid: String,
}
