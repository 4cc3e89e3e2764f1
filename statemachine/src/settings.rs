//! Cluster settings: values that must be equal on all replicas, and are therefore in the log.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::{AgentSettingsChange, SettingsChange};
use crate::event::Event;
use crate::limits::{
    HOLD_MS_MAX, HOST_DOWN_AFTER_MS, RESERVE_MAX, REUSE_DELAY_MS_MAX, VIP_GRANT_MS,
    VIP_LEASE_MS_MAX,
};
use crate::refusal::Refusal;
use crate::state::State;
use crate::version;

/// Settings of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Settings {
    /// How long a released address is not reused, milliseconds. 0: it is reusable at once.
    pub address_reuse_delay_ms: u64,
    /// Length of a VIP lease, milliseconds: how long a host may answer for the VIP without a renewal. From version 4
    /// on between 1 000 and 10 000.
    pub vip_lease_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { address_reuse_delay_ms: 30_000, vip_lease_ms: 1_000 }
    }
}

/// Settings for agents, since version 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentSettings {
    /// Addresses that an agent keeps in reserve for each tenant and segment with endpoints on its host; 0: none.
    pub reserve_per_owner: u32,
    /// Time without heartbeats after which a host with an agent is marked down, milliseconds; 0: never.
    pub host_down_after_ms: u64,
    /// Maximum time that allocation waits for reports after a restore, milliseconds; 0: until all hosts have
    /// reported.
    pub restore_hold_max_ms: u64,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self { reserve_per_owner: 0, host_down_after_ms: 10_000, restore_hold_max_ms: 0 }
    }
}

pub(crate) fn decide(state: &State, change: &SettingsChange) -> Result<Vec<Event>, Refusal> {
    let refuse = |setting: &str, value: u64, (min, max): (u64, u64)| {
        Err(Refusal::SettingOutOfRange { setting: setting.into(), value, min, max })
    };
    let mut next = state.settings.clone();
    if let Some(value) = change.address_reuse_delay_ms {
        if value > REUSE_DELAY_MS_MAX {
            return refuse("address_reuse_delay_ms", value, (0, REUSE_DELAY_MS_MAX));
        }
        next.address_reuse_delay_ms = value;
    }
    if let Some(value) = change.vip_lease_ms {
        let (min, max) = if state.version >= version::VIP_PLACEMENT {
            VIP_GRANT_MS
        } else {
            (100, VIP_LEASE_MS_MAX)
        };
        if !(min..=max).contains(&value) {
            return refuse("vip_lease_ms", value, (min, max));
        }
        next.vip_lease_ms = value;
    }
    if next == state.settings {
        return Ok(vec![]);
    }
    Ok(vec![Event::SettingsChanged(next)])
}

/// When the version is raised to that of placements: a lease of a length that is not accepted any more.
pub(crate) fn bound_lease(state: &State) -> Option<Event> {
    let (min, max) = VIP_GRANT_MS;
    let vip_lease_ms = state.settings.vip_lease_ms.clamp(min, max);
    let changed = vip_lease_ms != state.settings.vip_lease_ms;
    changed.then(|| Event::SettingsChanged(Settings { vip_lease_ms, ..state.settings.clone() }))
}

pub(crate) fn decide_agents(
    state: &State,
    change: &AgentSettingsChange,
) -> Result<Vec<Event>, Refusal> {
    let within = |setting: &str, value: u64, (min, max): (u64, u64)| {
        if value == 0 || (min..=max).contains(&value) {
            return Ok(value);
        }
        Err(Refusal::SettingOutOfRange { setting: setting.into(), value, min, max })
    };
    let mut next = state.agent_settings.clone();
    if let Some(value) = change.reserve_per_owner {
        within("reserve_per_owner", value.into(), (0, RESERVE_MAX.into()))?;
        next.reserve_per_owner = value;
    }
    if let Some(value) = change.host_down_after_ms {
        next.host_down_after_ms = within("host_down_after_ms", value, HOST_DOWN_AFTER_MS)?;
    }
    if let Some(value) = change.restore_hold_max_ms {
        next.restore_hold_max_ms = within("restore_hold_max_ms", value, (0, HOLD_MS_MAX))?;
    }
    if next == state.agent_settings {
        return Ok(Vec::new());
    }
    Ok(vec![Event::AgentSettingsChanged(next)])
}

impl State {
    /// Settings for agents.
    #[must_use]
    pub fn agent_settings(&self) -> &AgentSettings {
        &self.agent_settings
    }
}
