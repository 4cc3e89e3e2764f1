//! Romana 2.0's routes and formats, for existing clients.

use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::name::{
    AddressName, HostName, NetworkName, PolicyName, SegmentId, TenantId,
};
use romana_statemachine::policy::document::Direction;
use romana_statemachine::{Labels, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An error in 2.0's format.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Romana2Error {
    /// The HTTP status.
    pub status_code: u16,
    /// The request, and why it failed.
    pub details: String,
    /// Stable code. Not in 2.0, like the hint.
    pub code: String,
    pub hint: String,
    /// Type of the object concerned, or empty.
    pub resource_type: String,
    pub resource_id: String,
    /// Always empty.
    pub see_also: String,
}

/// A request for an address. 2.0 accepted an empty tenant or segment, which is `default` here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Romana2Address {
    pub name: AddressName,
    pub host: HostName,
    #[serde(default)]
    pub tenant: String,
    #[serde(default)]
    pub segment: String,
}

/// A host to add.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Romana2NewHost {
    pub name: HostName,
    pub ip: IpAddr,
    #[serde(default)]
    pub tags: Option<Labels>,
    /// Ignored.
    #[serde(default)]
    pub agent_port: u16,
    /// Ignored.
    #[serde(default)]
    pub k8s_info: Option<Value>,
}

/// Reference to a policy. 2.0's ids are strings, those of earlier versions numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Romana2PolicyRef {
    #[serde(default)]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "romana_statemachine::schema::name_or_number")
    )]
    pub id: Value,
}

/// A policy. Parties have the format of policy documents, with `tenant_id` and `segment_id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Romana2Policy {
    pub id: PolicyName,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    pub applied_to: Vec<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Value>>,
}

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Romana2Network {
    pub revision: Revision,
    pub id: NetworkName,
    #[cfg_attr(feature = "schema", schemars(with = "romana_statemachine::schema::Cidr"))]
    pub cidr: IpNet,
}

/// The answer of `GET /networks/{name}/blocks`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Romana2Blocks {
    pub revision: Revision,
    pub blocks: Vec<Romana2Block>,
}

/// A block.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Romana2Block {
    pub revision: Revision,
    #[cfg_attr(feature = "schema", schemars(with = "romana_statemachine::schema::Cidr"))]
    pub cidr: IpNet,
    pub tenant: TenantId,
    pub segment: SegmentId,
    pub host: HostName,
    pub allocated_ip_count: u64,
}

/// Hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Romana2Hosts {
    pub hosts: Vec<Romana2Host>,
    pub revision: Revision,
}

/// A host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Romana2Host {
    pub ip: IpAddr,
    pub name: HostName,
    /// Always 0: agents have no port.
    pub agent_port: u16,
    pub tags: Labels,
    pub k8s_info: Labels,
}
