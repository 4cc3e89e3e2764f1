//! Versions of behaviour, and what each one introduced. New behaviour is enabled by [`Command::RaiseVersion`] in the
//! log, so that all replicas switch at the same entry. The version of a command or an event is in their tables
//! ([`Command::meta`], [`Event::meta`]); other changes are listed here.

use alloc::vec;
use alloc::vec::Vec;

use crate::command::Command;
use crate::endpoint;
use crate::event::{Event, VersionRaised};
use crate::refusal::Refusal;
use crate::settings;
use crate::state::State;
use crate::vip;

/// The highest version that this program supports.
pub const VERSION_MAX: u16 = 4;

/// Members are in the log: a replica claims its id, and a restored cluster starts without members.
pub const MEMBERS: u16 = 2;

/// Replicas compare their states at checkpoints, and prove their histories on request.
pub const PROOFS: u16 = 2;

/// Heartbeats of agents: hosts without heartbeats are marked down.
pub const HEARTBEATS: u16 = 3;

/// Reports contain addresses: those that are in use and free are adopted.
pub const ADOPTION: u16 = 3;

/// One agent per host; others are refused, and remembered for a while.
pub const ENROLMENT: u16 = 4;

/// Replicas exchange where their histories begin.
pub const BEGINNINGS: u16 = 4;

/// One definition of a usable address, applied to all objects; service ranges.
pub const ADDRESS_CHECKS: u16 = 4;

/// An endpoint matches the allocation of its address, and is removed with it.
pub const ENDPOINTS_TIED: u16 = 4;

/// Labels of regions and zones match by their old and new names.
pub const ZONE_LABELS: u16 = 4;

/// Objects that come from outside belong to their source.
pub const SOURCES: u16 = 4;

/// The log says which host has a VIP, since when and why; leases are not in it.
pub const VIP_PLACEMENT: u16 = 4;

/// Refuses a command that the cluster's version does not support.
pub(crate) fn check(state: &State, command: &Command) -> Result<(), Refusal> {
    let (needed, current) = (command.meta().since, state.version);
    if current < needed { Err(Refusal::VersionTooLow { needed, current }) } else { Ok(()) }
}

/// Idempotent: raising to the current version is accepted.
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
    if version == VIP_PLACEMENT {
        events.extend(settings::bound_lease(state));
        events.extend(vip::leased(state));
    }
    Ok(events)
}

impl State {
    /// Whether the cluster's version supports a command; otherwise it refuses the command.
    #[must_use]
    pub fn knows(&self, command: &Command) -> bool {
        check(self, command).is_ok()
    }
}

pub(crate) fn evolve_raised(state: &mut State, version: u16) {
    state.version = version;
    if version == ADDRESS_CHECKS {
        state.reserve_hosts();
    }
    if version == VIP_PLACEMENT {
        vip::forget_leases(state);
    }
}
