//! Reports of agents about the attachments on their hosts.
//!
//! ```text
//!   report ─► allocated and not running: released, the report cited
//!          ─► running and not allocated: adopted if it is free (version 3), else a conflict
//! ```

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::command::{Attached, HostReport, ReportAttachments};
use crate::entry::Millis;
use crate::event::{Conflict, ConflictsReported, Event};
use crate::hold;
use crate::ipam;
use crate::limits::{CONFLICTS_KEPT_MAX, REPORT_NAMES_MAX};
use crate::name::HostName;
use crate::refusal::Refusal;
use crate::state::{Now, State};

/// Releases addresses allocated on the host up to the report's revision that are not in use there.
pub(crate) fn decide_names(
    state: &State,
    report: &HostReport,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    if report.running.len() > REPORT_NAMES_MAX {
        let (size, max) = (report.running.len() as u64, REPORT_NAMES_MAX as u64);
        return Err(Refusal::TooLarge { field: "running".into(), size, max });
    }
    let running = report.running.iter().collect();
    let mut events = ipam::decide_leaked(state, &report.host, report.revision, &running, now)?;
    events.extend(hold::decide_reported(state, report)?);
    Ok(events)
}

/// Releases addresses that are not in use, and adopts those that are in use and free; any other is a conflict.
pub(crate) fn decide_attachments(
    state: &State,
    report: &ReportAttachments,
    now: Now,
) -> Result<Vec<Event>, Refusal> {
    let size = report.running.len() + report.kept.len();
    if size > REPORT_NAMES_MAX {
        let (size, max) = (size as u64, REPORT_NAMES_MAX as u64);
        return Err(Refusal::TooLarge { field: "running".into(), size, max });
    }
    let names = report.running.iter().map(|attached| &attached.name).chain(&report.kept);
    let names: BTreeSet<_> = names.collect();
    let mut events = ipam::decide_leaked(state, &report.host, report.revision, &names, now)?;
    let mut later = Later::new(state, &events, now);
    let mut conflicts = Vec::new();
    for attached in &report.running {
        match ipam::decide_adopt(later.state(), report, attached, now) {
            Ok(adopted) => {
                later.evolve(&adopted);
                events.extend(adopted);
            }
            // Released after the agent had looked: its next report will be correct.
            Err(Refusal::AddressCoolingDown { .. }) => {}
            Err(refusal @ Refusal::InvalidName { .. }) => return Err(refusal),
            Err(why) => {
                let Attached { name, ip, .. } = attached.clone();
                conflicts.push(Conflict { name, ip, why });
            }
        }
    }
    conflicts.truncate(CONFLICTS_KEPT_MAX);
    let known = state.conflicts.get(&report.host).map_or(&[][..], |known| known);
    if conflicts != known {
        let (host, reported) = (report.host.clone(), report.revision);
        let event = ConflictsReported { host, reported, conflicts };
        events.push(Event::ConflictsReported(event));
    }
    events.extend(hold::reported(state, &report.host, report.revision));
    Ok(events)
}

/// The state after some events; copied only if there are any.
struct Later<'a> {
    now: &'a State,
    ahead: Option<State>,
    at: Millis,
}

impl<'a> Later<'a> {
    fn new(now: &'a State, events: &[Event], at: Now) -> Self {
        let mut later = Self { now, ahead: None, at: at.at };
        later.evolve(events);
        later
    }

    fn state(&self) -> &State {
        self.ahead.as_ref().unwrap_or(self.now)
    }

    fn evolve(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let state = self.ahead.get_or_insert_with(|| self.now.clone());
        state.at = self.at;
        for event in events {
            state.revision = state.revision.next();
            state.evolve(event);
        }
    }
}

pub(crate) fn evolve_conflicts(state: &mut State, reported: &ConflictsReported) {
    if reported.conflicts.is_empty() {
        state.conflicts.remove(&reported.host);
    } else {
        state.conflicts.insert(reported.host.clone(), Arc::new(reported.conflicts.clone()));
    }
}

impl State {
    /// Addresses in use on hosts that cannot be allocated to them, by host.
    pub fn conflicts(&self) -> impl Iterator<Item = (&HostName, &[Conflict])> {
        self.conflicts.iter().map(|(host, conflicts)| (host, &conflicts[..]))
    }
}
