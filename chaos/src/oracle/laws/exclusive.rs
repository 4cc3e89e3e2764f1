//! Linearizability of allocation by address, using only the clients' observations: times and answers.
//!
//! An address is a lock. A name that was granted it certainly holds it from the answer until the invocation
//! of a call that may take it away: its release, or the eviction of its host. Certain holds of two names must
//! not overlap, and no name may be observed within the certain hold of another: no order of the operations
//! would explain that. (This is the zone argument of Gibbons and Korach for registers with distinct values:
//! *Testing Shared Memories*, 1997.)

use std::collections::HashMap;
use std::net::IpAddr;

use romana_statemachine::Command;
use romana_statemachine::name::{AddressName, HostName};

use super::super::{Case, Law, Verdict};
use crate::evidence::{Ask, Call, HeldAddress, Nanos, Outcome};

pub(in super::super) const LAW: Law = Law {
    name: "exclusive",
    says: "by the answers alone, no address was surely held by two names at a time",
    check,
};

/// A time in which a name certainly has an address.
#[derive(Clone, Copy, Debug)]
struct Hold<'a> {
    name: &'a AddressName,
    from: Nanos,
    to: Nanos,
}

/// Calls that may take addresses away: invoked, returned.
#[derive(Default)]
struct Takings<'a> {
    of_name: HashMap<&'a str, Vec<(Nanos, Nanos)>>,
    of_host: HashMap<&'a HostName, Vec<(Nanos, Nanos)>>,
}

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let calls = &case.evidence.calls;
    let takings = Takings::new(calls);
    let (mut holds, mut sights) = (HashMap::new(), HashMap::new());
    for call in calls {
        let Outcome::Acked { held: Some(held), .. } = &call.outcome else { continue };
        match &call.ask {
            Ask::Command(_) => {
                let hold = takings.hold(call, held);
                if hold.from < hold.to {
                    holds.entry(held.ip).or_insert_with(Vec::new).push(hold);
                }
            }
            Ask::Read(_) => {
                let (name, from, to) = (&held.name, call.invoked, call.returned);
                sights.entry(held.ip).or_insert_with(Vec::new).push(Hold { name, from, to });
            }
            Ask::Local(..) | Ask::Who(_) => {}
        }
    }
    for (ip, mut holds) in holds {
        holds.sort_by_key(|hold| hold.from);
        overlaps(ip, &holds, verdict);
        for sight in sights.get(&ip).into_iter().flatten() {
            let within = |hold: &&Hold<'_>| {
                hold.name != sight.name && hold.from < sight.from && sight.to < hold.to
            };
            if let Some(hold) = holds.iter().find(within) {
                verdict.broken(format!("{ip}: {sight:?} was seen while {hold:?}"));
            }
        }
    }
}

/// Checks holds, sorted by their beginning, for overlaps.
fn overlaps(ip: IpAddr, holds: &[Hold<'_>], verdict: &mut Verdict) {
    let mut longest: Option<&Hold<'_>> = None;
    for hold in holds {
        if let Some(before) = longest.filter(|it| it.name != hold.name && hold.from < it.to) {
            verdict.broken(format!("{ip}: {before:?} and {hold:?}"));
        }
        if longest.is_none_or(|it| it.to < hold.to) {
            longest = Some(hold);
        }
    }
}

impl<'a> Takings<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let mut takings = Self::default();
        let may = |call: &&Call| call.may_have_happened() || call.retried;
        for call in calls.iter().filter(may) {
            // A call with unknown outcome may take effect at any later time.
            let end = match call.outcome {
                Outcome::Acked { .. } => call.returned,
                _ => Nanos::MAX,
            };
            match call.command() {
                Some(Command::ReleaseAddress(ask)) => {
                    let of = takings.of_name.entry(ask.address.as_str()).or_default();
                    of.push((call.invoked, end));
                }
                Some(Command::RemoveHost(ask)) if ask.force => {
                    takings.of_host.entry(&ask.name).or_default().push((call.invoked, end));
                }
                _ => {}
            }
        }
        takings
    }

    /// From the answer of an allocation to the first call that may take the address away.
    fn hold(&self, call: &Call, held: &'a HeldAddress) -> Hold<'a> {
        let of_name = self.of_name.get(held.name.as_str()).into_iter().flatten();
        let of_host = self.of_host.get(&held.host).into_iter().flatten();
        // A call that returned before the allocation was invoked cannot affect it.
        let concerns = |(_, end): &&(Nanos, Nanos)| *end >= call.invoked;
        let taken = of_name.chain(of_host).filter(concerns).map(|(invoked, _)| *invoked).min();
        Hold { name: &held.name, from: call.returned, to: taken.unwrap_or(Nanos::MAX) }
    }
}
