//! What agents say of themselves, and what the leader remembers of it. None of it is in the log.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::entry::Revision;
use crate::name::{HostName, InstanceId};
use crate::version::{self, VERSION_MAX};

/// Key of the agent's version in a host's `info`: a host that has it has an agent.
pub const AGENT_INFO: &str = "agent";

/// What an agent says each second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Heartbeat {
    /// The host that it runs on.
    pub host: HostName,
    /// Version of its program, and of the log as it knows it ([`Heartbeat::version_of`]).
    pub version: String,
    /// Up to where it has followed the log.
    pub revision: Revision,
    /// The revision that its kernel agrees with; `None`: it does not agree yet.
    pub applied: Option<Revision>,
    /// Problems that need somebody to act, a sentence each.
    pub problems: Vec<String>,
}

/// Stands between the version of an agent's program and the version of the log that it knows: build metadata of
/// Semantic Versioning 2.0.0 §10, so that cluster and agents that do not know it take it as it is.
const KNOWS: &str = "+log.";

impl Heartbeat {
    /// The version that this program says of itself.
    #[must_use]
    pub fn version_of(package: &str) -> String {
        format!("{package}{KNOWS}{VERSION_MAX}")
    }

    /// The newest version of the log that the agent knows.
    #[must_use]
    pub fn knows(&self) -> u16 {
        let said = self.version.rsplit_once(KNOWS).and_then(|(_, version)| version.parse().ok());
        // Agents have said it since version 4.
        said.unwrap_or(version::HEARTBEATS)
    }
}

/// A heartbeat, and how long ago it was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeartbeatAge {
    /// The last one of its host.
    pub heartbeat: Heartbeat,
    /// Milliseconds since it came.
    pub silent_ms: u64,
}

/// An agent that was refused because another one speaks for its host. Not in the log: the leader remembers it for
/// a while, so that people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefusedAgent {
    pub host: HostName,
    /// What its state directory calls itself.
    pub instance: InstanceId,
    /// The name of the machine it runs on.
    pub machine: String,
}
