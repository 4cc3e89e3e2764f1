//! Agents and control planes of different releases (`deploy/previous`, which `make test` builds).

use std::path::Path;

use romana_testing::{agent_of, previous};
use serde_json::{Value, json};

use crate::lab::{Lab, beside, until};

fn topology() -> Value {
    json!({
        "networks": [{"name": "n", "cidr": "10.111.0.0/16", "block_mask": 29}],
        "topologies": [{"networks": ["n"], "map": [{"groups": [
            {"name": "h1", "ip": "10.77.0.1"}, {"name": "h2", "ip": "10.77.0.2"}]}]}]
    })
}

/// Allocates a block to host h2, and waits until h1 has the route to it.
fn hear_of_a_block(lab: &Lab, name: &str) {
    let given = lab.romana(&["address", "allocate", name, "--host", "h2", "--tenant", name]);
    let ip = given["ip"].as_str().expect("an address").to_owned();
    until("h1 has the route", || {
        let way = lab.text("h1", &["ip", "route", "get", &ip]).unwrap_or_default();
        way.contains("via 10.77.0.2")
    });
}

fn version(lab: &Lab) -> u64 {
    let answer = &lab.get(vec!["/v1/snapshot?topics=topology".into()])[0];
    answer["version"].as_u64().expect("a version")
}

/// An agent of the previous release works with a new control plane: the version with unknown events is not
/// raised before the agent is upgraded, unless an operator forces it.
#[test]
fn an_agent_of_the_previous_release_is_not_left_behind() {
    let Some(romanad) = previous() else { return };
    let agent = agent_of(&romanad);
    let mut lab = Lab::one_link_of(&romanad);
    lab.unfiltered();
    lab.topology(&topology());
    lab.agent_is(&agent);
    lab.start_agent("h1", &[]);
    hear_of_a_block(&lab, "before");

    lab.kill_replicas();
    lab.romanad_is(&beside("romanad"));
    lab.start_replicas();
    let waits = "the agent of host h1 knows version 3 only";
    until("the leader waits for the agent", || lab.replica_logs().contains(waits));
    assert_eq!(version(&lab), 3);
    let refused = lab.refusal(&["cluster", "raise-version"]);
    assert_eq!(refused["error"]["code"], "VersionNotRaised", "{refused}");
    assert!(refused["error"]["message"].to_string().contains(waits), "{refused}");
    hear_of_a_block(&lab, "between");

    lab.romana(&["cluster", "raise-version", "--force"]);
    assert_eq!(version(&lab), u64::from(romana_statemachine::VERSION_MAX));
    // The first events of version 4.
    lab.romana(&["settings", "set", "service_ranges=172.20.0.0/16"]);
    hear_of_a_block(&lab, "after");

    lab.stop_agent("h1");
    lab.agent_is(Path::new(env!("CARGO_BIN_EXE_romana-agent")));
    lab.start_agent("h1", &[]);
    hear_of_a_block(&lab, "upgraded");
}

/// An agent that is upgraded first works with a control plane of the previous release.
#[test]
fn an_agent_may_be_upgraded_first() {
    let Some(romanad) = previous() else { return };
    let mut lab = Lab::one_link_of(&romanad);
    lab.unfiltered();
    lab.topology(&topology());
    lab.start_agent("h1", &[]);
    hear_of_a_block(&lab, "one");
    let heard = || lab.get(vec!["/v1/heartbeats".into()])[0]["items"][0].clone();
    until("its heartbeats are heard", || heard()["heartbeat"]["host"] == "h1");
}
