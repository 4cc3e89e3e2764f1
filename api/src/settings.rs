//! `/v1/settings`: values that are the same on all replicas, hence in the log.

use ipnet::IpNet;
use romana_statemachine::AgentSettings;
use romana_statemachine::{Revision, Settings};
use serde::{Deserialize, Deserializer, Serialize};

/// All settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClusterSettings {
    #[serde(flatten)]
    pub settings: Settings,
    #[serde(flatten)]
    pub agents: AgentSettings,
    /// How long records are kept; `null`: for ever.
    #[serde(default)]
    pub history_retention_ms: Option<u64>,
    /// How many bytes of records each replica keeps; `null`: all.
    #[serde(default)]
    pub history_retention_bytes: Option<u64>,
    /// Ranges of Kubernetes services: no endpoint, host or network gets their addresses.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<romana_statemachine::schema::Cidr>"))]
    pub service_ranges: Vec<IpNet>,
    /// The version of behaviour.
    #[serde(default)]
    pub version: u16,
    #[serde(default)]
    pub revision: Revision,
}

/// What is to change; absent members stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SettingsPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_reuse_delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_lease_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_per_owner: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_down_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_hold_max_ms: Option<u64>,
    /// `null`: for ever.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub history_retention_ms: Option<Option<u64>>,
    /// `null`: all.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub history_retention_bytes: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_ranges: Option<Vec<String>>,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(from).map(Some)
}
