//! Law 7: every record in the history has a cause.

use std::collections::{HashMap, HashSet};

use romana_statemachine::Command;
use romana_statemachine::event::ReleaseReason;
use romana_statemachine::name::{AddressName, HostName};

use super::super::timeline::Timeline;
use super::super::{Case, Law, Verdict};
use crate::evidence::Call;
use crate::kubernetes::is_node;

pub(in super::super) const LAW: Law = Law {
    name: "no-phantom",
    says: "nothing is in the history that nobody asked for, or that was refused",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let asked = Asked::new(case);
    asked.explain(&case.timeline, verdict);
}

/// Requests that were or may have been committed.
#[derive(Default)]
struct Asked<'a> {
    allocated: HashSet<(&'a AddressName, &'a HostName)>,
    /// Names, and addresses as text.
    released: HashSet<&'a str>,
    hosts_added: HashSet<&'a HostName>,
    /// Whether with `force`.
    hosts_removed: HashMap<&'a HostName, bool>,
    /// Whether Nodes of a Kubernetes API server come and go.
    nodes: bool,
}

impl<'a> Asked<'a> {
    fn new(case: &Case<'a>) -> Self {
        let mut asked = Self { nodes: case.evidence.kubernetes.is_some(), ..Self::default() };
        let calls = case.evidence.calls.iter().filter(|call| call.may_have_happened());
        for command in calls.filter_map(Call::command) {
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
                verdict.broken(what);
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
                verdict.broken(format!("nobody can have released {span:?}"));
            }
        }
        let is_node = |host: &HostName| self.nodes && is_node(host);
        for (host, revision) in timeline.hosts_added.iter().filter(|(host, _)| !is_node(host)) {
            if !self.hosts_added.contains(host) {
                verdict.broken(format!("nobody added host {host} ({revision})"));
            }
        }
        let removed = timeline.hosts_removed.iter().filter(|(host, ..)| !is_node(host));
        for (host, evicted, revision) in removed {
            if self.hosts_removed.get(host).is_none_or(|force| *evicted && !force) {
                verdict.broken(format!("nobody removed host {host} ({revision})"));
            }
        }
    }
}
