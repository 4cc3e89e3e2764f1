//! `/v1/settings`: settings that apply to all replicas, and are stored in the log.

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
    /// How long records are kept; `null`: forever.
    #[serde(default)]
    pub history_retention_ms: Option<u64>,
    /// Limit of the size of records on each replica, bytes; `null`: none.
    #[serde(default)]
    pub history_retention_bytes: Option<u64>,
    /// Ranges of Kubernetes services: excluded for endpoints, hosts and networks.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<romana_statemachine::schema::Cidr>"))]
    pub service_ranges: Vec<IpNet>,
    /// The version of behaviour.
    #[serde(default)]
    pub version: u16,
    #[serde(default)]
    pub revision: Revision,
}

/// Changes of settings; absent members stay unchanged.
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
    /// `null`: forever.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub history_retention_ms: Option<Option<u64>>,
    /// `null`: no limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub history_retention_bytes: Option<Option<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_ranges: Option<Vec<String>>,
}

/// Distinguishes `null` from absent.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(from).map(Some)
}
