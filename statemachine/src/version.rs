//! Versions of behaviour: what each one brought. New behaviour waits for [`Command::RaiseVersion`] in the log, so
//! that all replicas begin it at the same entry.
//!
//! [`Command::RaiseVersion`]: crate::Command::RaiseVersion

use alloc::vec;
use alloc::vec::Vec;

use crate::endpoint;
use crate::event::{Event, VersionRaised};
use crate::refusal::Refusal;
use crate::state::State;

/// The highest version that this program knows.
pub const VERSION_MAX: u16 = 4;

/// Members in the log, retention of the history, restores.
pub const MEMBERS: u16 = 2;

/// Agents: their reports with addresses, reserves, heartbeats, settings.
pub const AGENTS: u16 = 3;

/// One agent for each host.
pub const ENROLMENT: u16 = 4;

/// One definition of an address that somebody may have, at every entrance; ranges of services.
pub const ADDRESS_CHECKS: u16 = 4;

/// An endpoint agrees with the allocation of its address, and ends with it.
pub const ENDPOINTS_TIED: u16 = 4;

/// Labels of regions and zones are understood by their old and new names.
pub const ZONE_LABELS: u16 = 4;

/// Refuses what the cluster does not know yet.
pub(crate) fn needs(state: &State, needed: u16) -> Result<(), Refusal> {
    let current = state.version;
    if current < needed { Err(Refusal::VersionTooLow { needed, current }) } else { Ok(()) }
}

/// Idempotent: the present version may be raised to again.
pub(crate) fn decide_raise(state: &State, version: u16) -> Result<Vec<Event>, Refusal> {
    let current = state.version;
    if version == current {
        return Ok(Vec::new());
    }
    if version != current + 1 || version > VERSION_MAX {
        return Err(Refusal::VersionNotNext { version, current, supported: VERSION_MAX });
    }
    let mut events = vec![Event::VersionRaised(VersionRaised { version })];
    if version == ENDPOINTS_TIED {
        events.extend(endpoint::contradicting(state));
    }
    Ok(events)
}

pub(crate) fn evolve_raised(state: &mut State, version: u16) {
    state.version = version;
    if version == ADDRESS_CHECKS {
        state.reserve_hosts();
    }
}
