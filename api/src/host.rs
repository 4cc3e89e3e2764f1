//! `/v1/hosts`. A host itself is [`romana_statemachine::Host`]; adding one takes a
//! [`romana_statemachine::command::HostSpec`].

use std::net::IpAddr;

use romana_statemachine::command::{Attached, HostState, Labels};
use romana_statemachine::name::{AddressName, InstanceId};
use romana_statemachine::{Millis, Revision};
use serde::{Deserialize, Serialize};

/// Changes of a host's facts, or a new state; absent members stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HostPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<IpAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Labels>,
    /// Not together with other members: one change could be refused after the other was committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<HostState>,
}

/// An agent's report of what runs on its host. The host is in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportBody {
    /// The agent's revision when it collected the report.
    pub revision: Revision,
    /// Time of the revision; only with `attached`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
    /// Names of the addresses in use, including those being set up.
    pub running: Vec<AddressName>,
    /// Known addresses in use. Those not allocated are adopted, or recorded as conflicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Vec<Attached>>,
}

/// An agent's heartbeat. The host is in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HeartbeatBody {
    /// Version of the agent's program.
    pub version: String,
    /// The revision up to which the agent has followed the log.
    pub revision: Revision,
    /// The revision that the host's kernel agrees with.
    #[serde(default)]
    pub applied: Option<Revision>,
    /// Problems for an operator: the first 16 are kept, 128 characters of each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The agent's instance. Refused if another one is enrolled for the host.
    /// Absent: an agent before version 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Name of the agent's machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
}

/// An agent that enrols for the host in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolmentBody {
    pub instance: InstanceId,
    /// The agent that it replaces, if another one is enrolled.
    #[serde(default)]
    pub replaces: Option<InstanceId>,
}
