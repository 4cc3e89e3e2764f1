//! Commands about policies and the endpoints that they apply to.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::labels::Labels;
use crate::name::{HostName, PolicyName, SegmentId, TenantId};
use crate::policy::Protocol;

/// The policy to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    pub name: PolicyName,
}

/// A workload with an address that is subject to policy: a pod or a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub tenant: TenantId,
    pub segment: SegmentId,
    pub host: HostName,
    /// Its labels (pod labels).
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub ports: Vec<NamedPort>,
}

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
    /// The number, 1 to 65535.
    pub port: u16,
}

/// The endpoint to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EndpointRef {
    pub ip: IpAddr,
}
