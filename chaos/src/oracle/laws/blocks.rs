//! Law 3: blocks are inside their groups and do not overlap, and addresses are in blocks of their hosts.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use romana_statemachine::name::HostName;
use romana_statemachine::{Event, Record};

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "blocks",
    says: "a block lies in its group, overlaps no other, and holds its addresses",
    check,
};

#[derive(Default)]
struct Blocks {
    /// Assigned blocks by first address: block, host.
    assigned: BTreeMap<IpAddr, (IpNet, HostName)>,
    live: HashSet<IpAddr>,
}

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut blocks = Blocks::default();
    for record in &case.witness.records {
        blocks.event(record, verdict);
    }
}

impl Blocks {
    fn event(&mut self, record: &Record, verdict: &mut Verdict) {
        match &record.event {
            Event::BlockAssigned(event) => {
                if !event.group.contains(&event.cidr) {
                    let (cidr, group) = (event.cidr, event.group);
                    verdict.broken(format!("block {cidr} is outside its group {group}"));
                }
                self.assign(event.cidr, event.host.clone(), verdict);
            }
            Event::BlockReleased(event) => {
                if self.assigned.remove(&event.cidr.network()).is_none() {
                    let revision = record.revision;
                    verdict.broken(format!(
                        "revision {revision} releases {}, not assigned",
                        event.cidr
                    ));
                }
                if let Some(ip) = self.live.iter().find(|ip| event.cidr.contains(*ip)) {
                    verdict.broken(format!("block {} was released with {ip} in use", event.cidr));
                }
            }
            Event::AddressAllocated(event) => {
                self.hold(event.ip, event.block, &event.host, verdict);
            }
            Event::AddressAdopted(event) => self.hold(event.ip, event.block, &event.host, verdict),
            Event::AddressReleased(event) => _ = self.live.remove(&event.ip),
            _ => {}
        }
    }

    fn hold(&mut self, ip: IpAddr, block: IpNet, host: &HostName, verdict: &mut Verdict) {
        let inside = self.assigned.range(..=ip).next_back().map(|(_, block)| block);
        if !inside
            .is_some_and(|(cidr, owner)| *cidr == block && cidr.contains(&ip) && owner == host)
        {
            verdict.broken(format!("{ip} is not in a block of host {host} ({block})"));
        }
        self.live.insert(ip);
    }

    fn assign(&mut self, cidr: IpNet, host: HostName, verdict: &mut Verdict) {
        let overlaps =
            |other: &IpNet| other.contains(&cidr.network()) || cidr.contains(&other.network());
        let before = self.assigned.range(..=cidr.network()).next_back();
        let after = self.assigned.range(cidr.network()..).next();
        for (_, (other, _)) in before.into_iter().chain(after) {
            if overlaps(other) {
                verdict.broken(format!("blocks {cidr} and {other} overlap"));
                break;
            }
        }
        self.assigned.insert(cidr.network(), (cidr, host));
    }
}
