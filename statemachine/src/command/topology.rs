//! Commands about the topology, blackouts, service ranges, settings and the version.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A range excluded from allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Blackout {
    /// The range, as text: `decide` explains what is wrong with it.
    pub cidr: String,
}

/// The ranges of service addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReserveServices {
    /// As text, without host bits; at most [`crate::limits::SERVICE_RANGES_MAX`]. They replace the current ranges.
    pub ranges: Vec<String>,
}

/// New values of cluster settings; absent fields do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// How long a released address is not reused, milliseconds. 0: it is reusable at once.
    pub address_reuse_delay_ms: Option<u64>,
    /// Length of a VIP lease, milliseconds: how long a host may answer for the VIP without a renewal.
    pub vip_lease_ms: Option<u64>,
}

/// New values of the settings for agents; absent fields do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettingsChange {
    /// Addresses that an agent keeps in reserve for each tenant and segment with endpoints on its host.
    pub reserve_per_owner: Option<u32>,
    /// Time without heartbeats after which a host with an agent is marked down, milliseconds; 0: never.
    pub host_down_after_ms: Option<u64>,
    /// Maximum time that allocation waits for reports after a restore, milliseconds; 0: until all hosts have
    /// reported.
    pub restore_hold_max_ms: Option<u64>,
}

/// The version to raise to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RaiseVersion {
    pub version: u16,
}
