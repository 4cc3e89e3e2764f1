//! Restored clusters: allocation is held until all hosts have reported. Since version 2.
//!
//! Only the hosts know what was allocated after the backup: until they have reported, no new address is allocated.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use imbl::OrdSet;

use crate::command::{AllocateAddress, HostReport};
use crate::entry::{Index, Record, Revision, Term};
use crate::event::{AllocationResumed, Event, HostReported, Restored, ResumedBy};
use crate::limits::NAMES_LISTED_MAX;
use crate::members::Members;
use crate::name::{Actor, HostName};
use crate::refusal::Refusal;
use crate::state::State;
use crate::version;
use crate::vip;

/// Why allocation is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationHold {
    /// Revision of the restore.
    pub since: Revision,
    /// Hosts that have not reported since the restore.
    pub waiting: OrdSet<HostName>,
}

/// Ends the hold before all hosts have reported; no events if there is no hold.
pub(crate) fn resume(state: &State, by: ResumedBy) -> Vec<Event> {
    let resumed = state.held.as_ref().map(|_| AllocationResumed { by });
    resumed.map(Event::AllocationResumed).into_iter().collect()
}

/// While allocation is held, only addresses that are already in use are allocated again, each requested by its
/// address.
pub(crate) fn check(state: &State, ask: &AllocateAddress) -> Result<(), Refusal> {
    let Some(held) = state.held.as_ref().filter(|_| ask.ip.is_none()) else {
        return Ok(());
    };
    Err(Refusal::AllocationHeld {
        since: held.since,
        hosts: held.waiting.iter().take(NAMES_LISTED_MAX).cloned().collect(),
        waiting: held.waiting.len() as u64,
    })
}

/// The events of a host's report while allocation is held. A report that names unallocated addresses is refused: the
/// agent first requests those, each by its address.
pub(crate) fn decide_reported(state: &State, report: &HostReport) -> Result<Vec<Event>, Refusal> {
    let Some(held) = &state.held else { return Ok(Vec::new()) };
    if !held.waiting.contains(&report.host) || report.revision < held.since {
        return Ok(Vec::new());
    }
    let allocated: BTreeSet<_> =
        state.ipam.host_addresses(&report.host).map(|live| live.name).collect();
    let missing = || report.running.iter().filter(|name| !allocated.contains(*name));
    let total = missing().count() as u64;
    if total > 0 {
        let names = missing().take(NAMES_LISTED_MAX).cloned().collect();
        return Err(Refusal::ReportIncomplete { host: report.host.clone(), names, total });
    }
    Ok(reported(state, &report.host, report.revision))
}

/// The events of a host's report while allocation is held: none if it is not awaited or older than the restore.
pub(crate) fn reported(state: &State, host: &HostName, revision: Revision) -> Vec<Event> {
    let waits = |held: &&AllocationHold| held.waiting.contains(host) && revision >= held.since;
    let Some(_) = state.held.as_ref().filter(waits) else { return Vec::new() };
    let reported = HostReported { host: host.clone(), revision };
    let mut events = vec![Event::HostReported(reported)];
    events.extend(resumed_without(state, host));
    events
}

/// Ends the hold if this is the last host it waits for.
pub(crate) fn resumed_without(state: &State, host: &HostName) -> Option<Event> {
    let held = state.held.as_ref()?;
    let last = held.waiting.len() == 1 && held.waiting.contains(host);
    last.then_some(Event::AllocationResumed(AllocationResumed { by: ResumedBy::Reports }))
}

/// The host has reported, or was removed.
pub(crate) fn evolve_reported(state: &mut State, host: &HostName) {
    if let Some(held) = &mut state.held {
        held.waiting.remove(host);
    }
}

/// A restored cluster starts with new members and waits for all its hosts.
pub(crate) fn evolve_restored(state: &mut State) {
    let waiting: OrdSet<HostName> = state.hosts.values().map(|host| host.name.clone()).collect();
    let since = state.revision;
    state.version = state.version.max(version::MEMBERS);
    state.members = Members::default();
    vip::forget_placements(state);
    state.held = (!waiting.is_empty()).then_some(AllocationHold { since, waiting });
}

impl State {
    /// Why allocation is held; `None`: it is not.
    #[must_use]
    pub fn held(&self) -> Option<&AllocationHold> {
        self.held.as_ref()
    }

    /// The initial state of a new cluster that is restored from this one, and the record of the restore.
    /// Deterministic, so that the replicas of the new cluster start with equal states.
    #[must_use]
    pub fn restored(mut self, restored: Restored) -> (Self, Record) {
        (self.index, self.term) = (Index(0), Term(0));
        let record = self.record(Actor::from("restore"), Event::Restored(restored));
        (self, record)
    }
}
