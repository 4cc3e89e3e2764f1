//! Cluster settings: values that must be the same everywhere, hence in the log.

use serde::{Deserialize, Serialize};

use crate::command::SettingsChange;
use crate::event::Event;
use crate::limits::{REUSE_DELAY_MS_MAX, VIP_LEASE_MS_MAX};
use crate::refusal::Refusal;

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long a released address is not given out again, milliseconds. 0 = at once.
    pub address_reuse_delay_ms: u64,
    /// How long a host may answer for a VIP without a renewal, milliseconds.
    pub vip_lease_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { address_reuse_delay_ms: 30_000, vip_lease_ms: 1_000 }
    }
}

impl Settings {
    pub(crate) fn decide(
        &self,
        change: &SettingsChange,
    ) -> Result<alloc::vec::Vec<Event>, Refusal> {
        let refuse = |setting: &str, value: u64, min: u64, max: u64| {
            Err(Refusal::SettingOutOfRange { setting: setting.into(), value, min, max })
        };
        let mut next = self.clone();
        if let Some(value) = change.address_reuse_delay_ms {
            if value > REUSE_DELAY_MS_MAX {
                return refuse("address_reuse_delay_ms", value, 0, REUSE_DELAY_MS_MAX);
            }
            next.address_reuse_delay_ms = value;
        }
        if let Some(value) = change.vip_lease_ms {
            if !(100..=VIP_LEASE_MS_MAX).contains(&value) {
                return refuse("vip_lease_ms", value, 100, VIP_LEASE_MS_MAX);
            }
            next.vip_lease_ms = value;
        }
        if next == *self {
            return Ok(alloc::vec![]);
        }
        Ok(alloc::vec![Event::SettingsChanged(next)])
    }
}
