//! Law 1: an address has one holder, a name holds one address, and only the holder releases it.

use std::collections::HashMap;
use std::net::IpAddr;

use romana_statemachine::name::AddressName;
use romana_statemachine::{Event, Revision};

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "address-once",
    says: "no address has two names, and no name two addresses, at any revision",
    check,
};

/// Current holders while the history is read.
#[derive(Default)]
struct Holders<'a> {
    by_ip: HashMap<IpAddr, &'a AddressName>,
    by_name: HashMap<&'a AddressName, IpAddr>,
}

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut holders = Holders::default();
    for record in &case.witness.records {
        let at = record.revision;
        match &record.event {
            Event::AddressAllocated(event) => holders.take(at, event.ip, &event.name, verdict),
            Event::AddressAdopted(event) => holders.take(at, event.ip, &event.name, verdict),
            Event::AddressClaimed(event) => {
                holders.give(at, event.ip, &event.reserve, verdict);
                holders.take(at, event.ip, &event.name, verdict);
            }
            Event::AddressReleased(event) => holders.give(at, event.ip, &event.name, verdict),
            _ => {}
        }
    }
}

impl<'a> Holders<'a> {
    fn take(&mut self, at: Revision, ip: IpAddr, name: &'a AddressName, verdict: &mut Verdict) {
        if let Some(other) = self.by_ip.insert(ip, name) {
            verdict.broken(format!("revision {at} gives {ip} to {name}, but {other} holds it"));
        }
        if let Some(other) = self.by_name.insert(name, ip) {
            verdict.broken(format!("revision {at} gives {ip} to {name}, which has {other}"));
        }
    }

    fn give(&mut self, at: Revision, ip: IpAddr, name: &AddressName, verdict: &mut Verdict) {
        if self.by_ip.remove(&ip) != Some(name) {
            verdict.broken(format!("revision {at} releases {ip} from {name}, no holder of it"));
        }
        self.by_name.remove(name);
    }
}
