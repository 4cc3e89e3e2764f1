//! A released address is not reused before the reuse delay: by then, caches of its last holder have expired.

use std::collections::HashMap;
use std::net::IpAddr;

use romana_statemachine::Settings;
use romana_statemachine::{Event, Millis};

use super::super::{Case, Law, Verdict};

pub(in super::super) const LAW: Law = Law {
    name: "reuse",
    says: "a released address is not given out again before the reuse delay is over",
    check,
};

fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut released: HashMap<IpAddr, Millis> = HashMap::new();
    // The initial settings of a cluster.
    let mut delay = Settings::default().address_reuse_delay_ms;
    for record in &case.witness.records {
        match &record.event {
            Event::SettingsChanged(settings) => delay = settings.address_reuse_delay_ms,
            Event::AddressReleased(event) => _ = released.insert(event.ip, record.at),
            Event::AddressAllocated(event) => {
                let Some(at) = released.get(&event.ip) else { continue };
                let rested = record.at.0 - at.0;
                if rested < delay {
                    let (ip, revision) = (event.ip, record.revision);
                    verdict.broken(format!(
                        "revision {revision} gives out {ip}, released {rested} ms ago; {delay} is the delay"
                    ));
                }
            }
            _ => {}
        }
    }
}
