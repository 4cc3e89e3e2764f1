//! Commands about the topology, blackouts, service ranges, settings and the version.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A range excluded from allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// The range, as text: decide says what is wrong with it.
    pub cidr: String,
}

/// The ranges that services have their addresses in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReserveServices {
    /// As text, without host bits; at most [`crate::limits::SERVICE_RANGES_MAX`]. They replace the present ones.
    pub ranges: Vec<String>,
}

/// New values of cluster settings; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// How long a released address is not given out again, milliseconds. 0 = at once.
    pub address_reuse_delay_ms: Option<u64>,
    /// How long a host may answer for a VIP without a renewal, milliseconds.
    pub vip_lease_ms: Option<u64>,
}

/// New values of what concerns agents; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettingsChange {
    /// Addresses that an agent holds in reserve for each tenant and segment that its host runs.
    pub reserve_per_owner: Option<u32>,
    /// Silence after which a host with an agent counts as down, milliseconds; 0: never.
    pub host_down_after_ms: Option<u64>,
    /// Longest that allocation waits for reports after a restore, milliseconds; 0: until all are there.
    pub restore_hold_max_ms: Option<u64>,
}

/// Which version to raise to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RaiseVersion {
    pub version: u16,
}
