//! Law 6: a VIP is active on one host at most. Each host uses its own clock, from the moment it learns of the
//! lease until the end of the lease: so no other host may learn of a lease before that end.

use std::collections::HashMap;
use std::net::IpAddr;

use romana_statemachine::name::HostName;
use romana_statemachine::{Event, Millis};

use super::super::{Law, World};

pub(in super::super) const LAW: Law = Law {
    name: "vips",
    says: "no host is given a VIP before the lease of the host that had it is over",
    check,
};

fn check(world: &World) -> Result<(), String> {
    // Only a new assignment can break it.
    let assigned =
        |record: &&romana_statemachine::Record| matches!(record.event, Event::VipAssigned(_));
    if !world.last.iter().flat_map(|(.., records)| records).any(|record| assigned(&record)) {
        return Ok(());
    }
    let mut leases: HashMap<IpAddr, (&HostName, Millis)> = HashMap::new();
    for record in &world.records {
        let Event::VipAssigned(event) = &record.event else { continue };
        let until = Millis(record.at.0 + event.lease_ms);
        if let Some((host, end)) = leases.insert(event.ip, (&event.host, until))
            && *host != event.host
            && record.at < end
        {
            let (ip, other) = (event.ip, &event.host);
            return Err(format!("{ip} goes to {other}, and {host} answers for it until {end:?}"));
        }
    }
    Ok(())
}
