//! `/v1/hosts`. A host itself is [`romana_statemachine::Host`]; adding one takes a
//! [`romana_statemachine::command::HostSpec`].

use std::net::IpAddr;

use romana_statemachine::command::{Attached, HostState, Labels};
use romana_statemachine::name::{AddressName, InstanceId};
use romana_statemachine::{Millis, Revision};
use serde::{Deserialize, Serialize};

/// New facts of a host, or a new state; absent members stay.
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
    /// Not together with other members: one change could be refused after the other was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<HostState>,
}

/// What runs on a host, said by its agent. The host is in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReportBody {
    /// The revision that the agent had followed to when it looked.
    pub revision: Revision,
    /// Time of the revision; only with `attached`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
    /// Names of the addresses in use, those being set up included.
    pub running: Vec<AddressName>,
    /// Addresses in use that are known. What is not allocated is adopted, or kept as a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Vec<Attached>>,
}

/// That an agent lives. The host is in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HeartbeatBody {
    /// Version of the agent's program.
    pub version: String,
    /// Up to where it has followed the log.
    pub revision: Revision,
    /// The revision that its kernel agrees with.
    #[serde(default)]
    pub applied: Option<Revision>,
    /// What somebody has to look at: the first 16 are kept, 128 characters of each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What the agent calls itself. Another one than speaks for the host is refused. Absent: it is of before version 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The name of the machine that it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
}

/// An agent that wants to speak for the host in the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnrolmentBody {
    pub instance: InstanceId,
    /// The agent that it replaces, if another one speaks for the host.
    #[serde(default)]
    pub replaces: Option<InstanceId>,
}
