//! Versions of behaviour: what each one brought. New behaviour waits for [`Command::RaiseVersion`] in the log, so
//! that all replicas begin it at the same entry. Which version brought a command or an event is in their tables
//! ([`Command::meta`], [`Event::meta`]); what else changed with a version is here.

use alloc::vec;
use alloc::vec::Vec;

use crate::command::Command;
use crate::endpoint;
use crate::event::{Event, VersionRaised};
use crate::refusal::Refusal;
use crate::state::State;

/// The highest version that this program knows.
pub const VERSION_MAX: u16 = 4;

/// Members are in the log: a replica claims its id, and a restored cluster begins with none.
pub const MEMBERS: u16 = 2;

/// Replicas compare their states at checkpoints, and prove their histories when they are asked to.
pub const PROOFS: u16 = 2;

/// Heartbeats of agents: hosts that fall silent are down.
pub const HEARTBEATS: u16 = 3;

/// Reports have addresses: what runs and is free is adopted.
pub const ADOPTION: u16 = 3;

/// One agent for each host; others are refused, and remembered for a while.
pub const ENROLMENT: u16 = 4;

/// Replicas tell each other where their histories begin.
pub const BEGINNINGS: u16 = 4;

/// One definition of an address that somebody may have, at every entrance; ranges of services.
pub const ADDRESS_CHECKS: u16 = 4;

/// An endpoint agrees with the allocation of its address, and ends with it.
pub const ENDPOINTS_TIED: u16 = 4;

/// Labels of regions and zones are understood by their old and new names.
pub const ZONE_LABELS: u16 = 4;

/// Refuses a command that the cluster does not know yet.
pub(crate) fn check(state: &State, command: &Command) -> Result<(), Refusal> {
    let (needed, current) = (command.meta().since, state.version);
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

impl State {
    /// Whether the cluster is at a version that knows a command; it refuses the command otherwise.
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
}
