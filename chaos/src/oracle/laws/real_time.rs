//! Real time: whatever was acknowledged before a call began precedes it in the history.

use std::collections::HashMap;

use romana_statemachine::name::AddressName;
use romana_statemachine::{Command, Revision};

use super::super::timeline::Timeline;
use super::super::{Case, Law, Verdict};
use crate::evidence::{Ask, Call, Nanos, Outcome};

pub(in super::super) const LAW: Law = Law {
    name: "real-time",
    says: "what was answered before a call began is before it in the history",
    check,
};

/// The highest revision acknowledged by a given time.
struct Floor {
    /// Times of answers, ascending, each with the highest revision answered until then.
    steps: Vec<(Nanos, Revision)>,
}

impl Floor {
    fn new(calls: &[Call]) -> Self {
        let mut steps: Vec<(Nanos, Revision)> = calls
            .iter()
            .filter_map(|call| match call.outcome {
                Outcome::Acked { revision, .. } => Some((call.returned, revision)),
                _ => None,
            })
            .collect();
        steps.sort_unstable();
        let mut highest = Revision(0);
        for (_, revision) in &mut steps {
            highest = highest.max(*revision);
            *revision = highest;
        }
        Self { steps }
    }

    /// The highest revision acknowledged strictly before `time`.
    fn before(&self, time: Nanos) -> Revision {
        let count = self.steps.partition_point(|(returned, _)| *returned < time);
        count.checked_sub(1).map_or(Revision(0), |last| self.steps[last].1)
    }
}

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let (calls, timeline) = (&case.evidence.calls, &case.timeline);
    let floor = Floor::new(calls);
    for call in calls {
        // Local reads may be stale.
        if matches!(call.ask, Ask::Local(..)) {
            continue;
        }
        let Outcome::Acked { revision, changed, .. } = &call.outcome else { continue };
        let least = floor.before(call.invoked).plus(u64::from(*changed == Some(true)));
        if *revision < least {
            let what = format!(
                "client {} at {} ms, {:?}: answered at revision {revision}, but revision {} had \
                 been answered before it began",
                call.client,
                call.invoked / 1_000_000,
                call.ask,
                floor.before(call.invoked),
            );
            verdict.broken(what);
        }
        not_found(call, &floor, timeline, verdict);
    }
    for (name, invoked) in first_asked(calls) {
        let least = floor.before(invoked);
        if let Some(span) = timeline.of_name(name).next()
            && span.from <= least
        {
            let what =
                format!("{span:?} is older than revision {least}, answered before anybody asked");
            verdict.broken(what);
        }
    }
}

/// A read without result took effect between its call and its answer; the revision in the
/// answer may be later than that.
fn not_found(call: &Call, floor: &Floor, timeline: &Timeline, verdict: &mut Verdict) {
    let (Ask::Read(name), Outcome::Acked { revision, held: None, .. }) = (&call.ask, &call.outcome)
    else {
        return;
    };
    if let Some(span) = timeline.held_through(name, floor.before(call.invoked), *revision) {
        let (client, at) = (call.client, call.invoked / 1_000_000);
        let what = format!("client {client} at {at} ms did not find {name}, but {span:?}");
        verdict.broken(what);
    }
}

/// When each name was first requested.
fn first_asked(calls: &[Call]) -> HashMap<&AddressName, Nanos> {
    let mut first = HashMap::new();
    for call in calls {
        if let Some(Command::AllocateAddress(ask)) = call.command() {
            let time = first.entry(&ask.name).or_insert(call.invoked);
            *time = call.invoked.min(*time);
        }
    }
    first
}
