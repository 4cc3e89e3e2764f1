//! Events about policies and endpoints. What is set is the document that the command had.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::{HostName, PolicyName};

/// A policy is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyRemoved {
    pub name: PolicyName,
}

/// An endpoint is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointRemoved {
    pub ip: IpAddr,
    pub host: HostName,
}
