//! Events about policies and endpoints. They carry the document of the command.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::{HostName, PolicyName};

/// A policy was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyRemoved {
    pub name: PolicyName,
}

/// An endpoint was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointRemoved {
    pub ip: IpAddr,
    pub host: HostName,
}
