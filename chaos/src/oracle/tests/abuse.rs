//! The laws on the cost of abusive clients for a replica and for other clients.

use super::*;
use crate::evidence::Resident;
use crate::nemesis::Injected;

const SECOND: u64 = 1_000 * MS;

fn fault(name: &str, from: u64, until: u64) -> Injected {
    let fault = name.parse().expect("a fault");
    Injected { fault, hit: String::from("replica 2"), from, until }
}

/// Memory samples of replica 2: (second, MB), in one process.
fn seen(looks: &[(u64, u64)]) -> Vec<Resident> {
    let resident = |&(second, mb): &(u64, u64)| Resident {
        replica: 2,
        process: 22,
        at: second * SECOND,
        bytes: mb << 20,
    };
    looks.iter().map(resident).collect()
}

/// A correct run with an abuse from 10 s to 12 s, and these memory samples of replica 2.
fn abused(looks: &[(u64, u64)]) -> Evidence {
    let faults = vec![fault("abusive-clients", 10 * SECOND, 12 * SECOND)];
    Evidence { memory: seen(looks), faults, ..good().evidence() }
}

#[test]
fn a_replica_that_grows_for_abusive_clients() {
    assert_eq!(judge(&abused(&[(9, 100), (11, 349), (13, 120), (20, 110)])), []);
    breaks("memory", &abused(&[(9, 100), (11, 351), (13, 120), (20, 110)]));
    // Without the abuse there is no limit.
    let calm = Evidence { faults: Vec::new(), ..abused(&[(9, 100), (11, 401)]) };
    assert_eq!(judge(&calm), []);
}

#[test]
fn a_replica_that_keeps_what_abusive_clients_cost() {
    breaks("memory", &abused(&[(9, 100), (11, 340), (13, 330), (20, 260)]));
    assert_eq!(judge(&abused(&[(9, 100), (11, 340), (13, 330), (20, 240)])), []);
    // Shortly after the abuse the remainder is unknown, and a new process is no increase.
    assert_eq!(judge(&abused(&[(9, 100), (11, 340), (13, 330)])), []);
    let mut evidence = abused(&[(9, 100), (11, 110), (13, 500), (20, 500)]);
    evidence.memory.iter_mut().skip(2).for_each(|seen| seen.process = 23);
    assert_eq!(judge(&evidence), []);
}

/// A correct run of a client that reads every 400 ms for 30 s, with latency `calm`, and latency `abused` from
/// 10 s to 20 s, while a replica is abused (milliseconds).
fn read_for_long(calm: u64, abused: u64) -> Evidence {
    let mut truth = good();
    let revision = truth.state.revision();
    let abuse = 10 * SECOND..20 * SECOND;
    let mut at = SECOND;
    while at < 30 * SECOND {
        let outcome = Outcome::Acked { revision, changed: None, held: None };
        let call = truth.call(Ask::Read("nobody".into()), outcome);
        let took = if abuse.contains(&at) { abused } else { calm } * MS;
        (truth.calls[call].invoked, truth.calls[call].returned) = (at, at + took);
        at += took.max(400 * MS);
    }
    let faults = vec![fault("abusive-clients", abuse.start, abuse.end)];
    Evidence { faults, ..truth.evidence() }
}

#[test]
fn ordinary_clients_that_are_served_late() {
    let two = |calm, abused| {
        let one = read_for_long(calm, abused);
        let mut both = one.clone();
        // Enough clients for a percentile.
        for client in 2..=60 {
            both.calls.extend(
                one.calls
                    .iter()
                    .filter(|call| call.invoked >= SECOND)
                    .cloned()
                    .map(|call| Call { client, ..call }),
            );
        }
        judge(&both)
    };
    assert_eq!(two(10, 1_990), [], "two seconds are always allowed");
    assert_eq!(laws(&two(10, 2_010)), ["served"]);
    assert_eq!(two(300, 2_990), [], "the whole machine is slow");
    assert_eq!(laws(&two(300, 3_010)), ["served"]);
}

#[test]
fn ordinary_clients_that_starve() {
    assert_eq!(judge(&read_for_long(10, 9_900)), []);
    breaks("served", &read_for_long(10, 10_100));
    // Quick answers without content do not count.
    let declined = |until: u64| {
        let mut evidence = read_for_long(10, 10);
        let declined = 10 * SECOND..until * SECOND;
        for call in evidence.calls.iter_mut().filter(|call| declined.contains(&call.invoked)) {
            call.outcome = Outcome::Unavailable;
        }
        evidence
    };
    assert_eq!(judge(&declined(18)), []);
    let mut starved = declined(25);
    breaks("served", &starved);
    starved.faults.push(fault("kill-all", 21 * SECOND, 23 * SECOND));
    breaks("served", &starved);
    starved.faults[1] = fault("kill-all", 12 * SECOND, 23 * SECOND);
    assert_eq!(judge(&starved), [], "another fault explains it");
}
