//! Answers against the history: what was acknowledged is there, what is there was asked for.

use std::collections::{HashMap, HashSet};

use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Command, event::ReleaseReason};

use super::Verdict;
use super::timeline::{Span, Timeline};
use crate::history::{Ask, Call, Held, Outcome};

/// Checks all calls.
pub(super) fn check(calls: &[Call], timeline: &Timeline, verdict: &mut Verdict) {
    for call in calls {
        let Outcome::Acked { revision, held, .. } = &call.outcome else { continue };
        if *revision > timeline.last {
            let last = timeline.last;
            let what =
                format!("{}: answered at {revision}, the history ends at {last}", told(call));
            verdict.broken("acked", what);
            continue;
        }
        match &call.ask {
            // Not found: `order` knows since when, which the answer does not say.
            Ask::Read(_) if held.is_none() => {}
            Ask::Read(name) => {
                agree(call, held.as_ref(), timeline.held_at(name, *revision), verdict);
            }
            Ask::Command(command) => match &**command {
                Command::AllocateAddress(ask) => {
                    if held.as_ref().is_some_and(|held| held.host != ask.host) {
                        verdict
                            .broken("acked", format!("{}: another host was answered", told(call)));
                    }
                    agree(call, held.as_ref(), timeline.held_at(&ask.name, *revision), verdict);
                }
                Command::ReleaseAddress(ask) => {
                    agree(call, None, timeline.held_at(&ask.address, *revision), verdict);
                }
                _ => {}
            },
        }
    }
    Asked::new(calls).explain(timeline, verdict);
}

fn told(call: &Call) -> String {
    format!("client {} at {} ms, {:?}", call.client, call.invoked / 1_000_000, call.ask)
}

fn agree(call: &Call, answer: Option<&Held>, truth: Option<&Span>, verdict: &mut Verdict) {
    let same = match (answer, truth) {
        (None, None) => true,
        (Some(held), Some(span)) => {
            held.name == span.name
                && held.ip == span.ip
                && held.host == span.host
                && held.revision == span.from
        }
        _ => false,
    };
    if !same {
        let what =
            format!("{}: answered {:?}, the history has {truth:?}", told(call), call.outcome);
        verdict.broken("acked", what);
    }
}

/// What was asked and may have happened.
#[derive(Default)]
struct Asked<'a> {
    allocated: HashSet<(&'a AddressName, &'a HostName)>,
    /// Names, and addresses as text.
    released: HashSet<&'a str>,
    hosts_added: HashSet<&'a HostName>,
    /// Whether with force.
    hosts_removed: HashMap<&'a HostName, bool>,
}

impl<'a> Asked<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let mut asked = Self::default();
        for command in
            calls.iter().filter(|call| call.may_have_happened()).filter_map(Call::command)
        {
            match command {
                Command::AllocateAddress(ask) => {
                    asked.allocated.insert((&ask.name, &ask.host));
                }
                Command::ReleaseAddress(ask) => {
                    asked.released.insert(ask.address.as_str());
                }
                Command::AddHost(spec) => {
                    asked.hosts_added.insert(&spec.name);
                }
                Command::RemoveHost(remove) => {
                    *asked.hosts_removed.entry(&remove.name).or_default() |= remove.force;
                }
                _ => {}
            }
        }
        asked
    }

    fn explain(&self, timeline: &Timeline, verdict: &mut Verdict) {
        for span in &timeline.spans {
            if !self.allocated.contains(&(&span.name, &span.host)) {
                let what = format!("nobody can have allocated {span:?}");
                verdict.broken("no-phantom", what);
            }
            let explained = match span.to.map(|(_, reason)| reason) {
                None => true,
                Some(ReleaseReason::Requested) => {
                    self.released.contains(span.name.as_str())
                        || self.released.contains(&*span.ip.to_string())
                }
                Some(ReleaseReason::Evicted) => self.hosts_removed.get(&span.host) == Some(&true),
                // The workload sends no reports and holds no reserve.
                Some(ReleaseReason::Reported(_) | ReleaseReason::Claimed) => false,
            };
            if !explained {
                verdict.broken("no-phantom", format!("nobody can have released {span:?}"));
            }
        }
        for (host, revision) in &timeline.hosts_added {
            if !self.hosts_added.contains(host) {
                verdict.broken("no-phantom", format!("nobody added host {host} ({revision})"));
            }
        }
        for (host, evicted, revision) in &timeline.hosts_removed {
            if self.hosts_removed.get(host).is_none_or(|force| *evicted && !force) {
                verdict.broken("no-phantom", format!("nobody removed host {host} ({revision})"));
            }
        }
    }
}
