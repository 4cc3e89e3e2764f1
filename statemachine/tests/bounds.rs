//! Every limit of [`limits`]: the maximum is accepted, one more is refused. (The scripts test the depth of groups,
//! the addresses of a host and the ranges of settings.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use romana_statemachine::limits::{
    BLOCKS_RETURNED_MAX, CONFLICTS_LISTED_MAX, DESCRIPTION_BYTES_MAX, GROUPS_MAX, LABEL_BYTES_MAX,
    LABELS_MAX, NAME_BYTES_MAX, NAMED_PORTS_MAX, NETWORK_TENANTS_MAX, NETWORKS_MAX,
    POLICY_LIST_MAX, REPORT_NAMES_MAX, VIP_CANDIDATES_MAX,
};
use romana_statemachine::{
    Command, Entry, Millis, Now, Position, Proposal, Refusal, State, Term, VERSION_MAX,
};
use serde_json::{Value, json};

const NOW: Now = Now { at: Millis(0), term: Term(1) };

fn command(value: Value) -> Command {
    serde_json::from_value(value).unwrap()
}

fn apply(state: &mut State, at: u64, commands: impl IntoIterator<Item = Value>) -> usize {
    let proposal = |value| Proposal { actor: "test".into(), command: command(value) };
    let proposals = commands.into_iter().map(proposal).collect();
    let position = Position { term: Term(1), index: state.index().next() };
    let (outcomes, records) = state.apply(position, &Entry { at: Millis(at), proposals });
    outcomes.into_iter().for_each(|outcome| _ = outcome.result.unwrap());
    records.len()
}

fn topology(cidr: &str, block_mask: u8, map: &Value) -> Value {
    let networks = json!([{"name": "n", "cidr": cidr, "block_mask": block_mask}]);
    let topologies = json!([{"networks": ["n"], "map": map}]);
    json!({"SetTopology": {"networks": networks, "topologies": topologies}})
}

/// A state with a network and a host.
fn state() -> State {
    let mut state = State::new();
    let host = json!({"AddHost": {"name": "h1", "ip": "192.168.0.1"}});
    apply(&mut state, 0, [topology("10.0.0.0/16", 32, &json!([{}])), host]);
    state
}

/// Decides the command that `make` returns for the maximum, which is accepted, and for one more, which is refused.
fn bounded(most: usize, code: &str, make: impl Fn(usize) -> Value) {
    let state = state();
    if let Err(refusal) = state.decide(&command(make(most)), NOW) {
        panic!("{most} of {code} refused: {refusal}");
    }
    let more = state.decide(&command(make(most + 1)), NOW).map_err(|refusal| refusal.code());
    assert_eq!(more, Err(code), "{} accepted", most + 1);
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("n{n}")).collect()
}

fn repeated(count: usize, value: &Value) -> Value {
    Value::Array(vec![value.clone(); count])
}

fn policy(field: &str, value: Value) -> Value {
    let rule = json!({"peers": ["Any"], "traffic": [{"protocol": "tcp"}]});
    let mut policy = json!({"name": "p", "applied_to": [{"Tenant": "t"}],
        "isolates_ingress": true, "isolates_egress": false, "ingress": [rule]});
    *policy.pointer_mut(field).unwrap() = value;
    json!({"SetPolicy": policy})
}

#[test]
fn names_and_labels() {
    bounded(NAME_BYTES_MAX, "InvalidName", |n| json!({"CreateTenant": {"id": "x".repeat(n)}}));
    let tenant =
        |labels: BTreeMap<String, String>| json!({"CreateTenant": {"id": "t", "labels": labels}});
    let label = |key: String, value: String| tenant([(key, value)].into());
    bounded(LABELS_MAX, "InvalidLabels", |n| {
        tenant(names(n).into_iter().map(|key| (key, String::new())).collect())
    });
    bounded(LABEL_BYTES_MAX, "InvalidLabels", |n| label("k".repeat(n), String::new()));
    bounded(LABEL_BYTES_MAX, "InvalidLabels", |n| label("k".into(), "v".repeat(n)));
}

#[test]
fn topologies() {
    let networks = |n: usize| -> Vec<_> {
        let network = |i| json!({"name": format!("x{i}"), "cidr": format!("10.{}.{}.0/24", i / 256, i % 256)});
        (0..n).map(network).collect()
    };
    let empty = State::new();
    let set = |networks: Value, topologies: Value| {
        let set = json!({"SetTopology": {"networks": networks, "topologies": topologies}});
        empty.decide(&command(set), NOW).map(|_| ()).map_err(|refusal| refusal.code())
    };
    assert_eq!(set(json!(networks(NETWORKS_MAX)), json!([])), Ok(()));
    assert_eq!(set(json!(networks(NETWORKS_MAX + 1)), json!([])), Err("TooLarge"));
    let tenants =
        |n| set(json!([{"name": "n", "cidr": "10.0.0.0/8", "tenants": names(n)}]), json!([]));
    assert_eq!(tenants(NETWORK_TENANTS_MAX), Ok(()));
    assert_eq!(tenants(NETWORK_TENANTS_MAX + 1), Err("TooLarge"));
    let groups = |n| {
        let topologies = json!([{"networks": ["n"], "map": repeated(n, &json!({}))}]);
        set(json!([{"name": "n", "cidr": "10.0.0.0/8", "block_mask": 29}]), topologies)
    };
    assert_eq!(groups(GROUPS_MAX), Ok(()));
    assert_eq!(groups(GROUPS_MAX + 1), Err("TooLarge"));
}

#[test]
fn policies() {
    let code = "InvalidPolicy";
    bounded(DESCRIPTION_BYTES_MAX, code, |n| {
        let mut set = policy("/name", json!("p"));
        set["SetPolicy"]["description"] = json!("d".repeat(n));
        set
    });
    let rule = json!({"peers": ["Any"], "traffic": [{"protocol": "tcp"}]});
    let tcp = json!({"protocol": "tcp"});
    let tenant = json!({"Tenant": "t"});
    bounded(POLICY_LIST_MAX, code, |n| policy("/applied_to", repeated(n, &tenant)));
    bounded(POLICY_LIST_MAX, code, |n| policy("/ingress", repeated(n, &rule)));
    bounded(POLICY_LIST_MAX, code, |n| policy("/ingress/0/peers", repeated(n, &json!("Any"))));
    bounded(POLICY_LIST_MAX, code, |n| policy("/ingress/0/traffic", repeated(n, &tcp)));
    bounded(POLICY_LIST_MAX, code, |n| {
        let ports = repeated(n, &json!({"Number": 80}));
        policy("/ingress/0/traffic/0", json!({"protocol": "tcp", "ports": ports}))
    });
    bounded(POLICY_LIST_MAX, code, |n| {
        let except = repeated(n, &json!("10.1.0.0/16"));
        policy("/ingress/0/peers/0", json!({"Cidr": {"cidr": "10.0.0.0/8", "except": except}}))
    });
    bounded(POLICY_LIST_MAX, code, |n| {
        let expressions = repeated(n, &json!({"Exists": "k"}));
        policy("/applied_to/0", json!({"Endpoints": ["t", {"expressions": expressions}]}))
    });
    bounded(POLICY_LIST_MAX, code, |n| {
        let expressions = json!([{"In": ["k", names(n)]}]);
        policy("/applied_to/0", json!({"Endpoints": ["t", {"expressions": expressions}]}))
    });
    bounded(LABELS_MAX, code, |n| {
        let labels: BTreeMap<_, _> = names(n).into_iter().map(|key| (key, "v")).collect();
        policy("/applied_to/0", json!({"Endpoints": ["t", {"labels": labels}]}))
    });
}

#[test]
fn endpoints_vips_and_reports() {
    bounded(NAMED_PORTS_MAX, "InvalidEndpoint", |n| {
        let port = |name: String| json!({"name": name, "protocol": "tcp", "port": 80});
        let ports: Vec<_> = names(n).into_iter().map(port).collect();
        json!({"SetEndpoint": {"ip": "10.9.0.1", "host": "h1", "tenant": "t", "segment": "s", "ports": ports}})
    });
    bounded(
        VIP_CANDIDATES_MAX,
        "TooLarge",
        |n| json!({"RequestVip": {"name": "v", "ip": "192.168.0.99", "candidates": names(n)}}),
    );
    bounded(
        REPORT_NAMES_MAX,
        "TooLarge",
        |n| json!({"ReportHost": {"host": "h1", "revision": 0, "running": names(n)}}),
    );
}

fn allocate(n: usize) -> Value {
    json!({"AllocateAddress": {"name": format!("a{n}"), "host": "h1", "tenant": "t", "segment": "s"}})
}

/// Empty blocks beyond the limit of one command wait for the next one.
#[test]
fn emptied_blocks_come_back_in_portions() {
    let mut state = state();
    let all = BLOCKS_RETURNED_MAX + 3;
    apply(&mut state, 0, (0..all).map(allocate));
    apply(&mut state, 0, (0..all).map(|n| json!({"ReleaseAddress": {"address": format!("a{n}")}})));
    let end = || [json!({"EndCooldowns": {"term": 1}})];
    let due = |state: &State| state.cooldowns_due(Millis(30_000));
    assert!(due(&state));
    assert_eq!(apply(&mut state, 30_000, end()), 1 + BLOCKS_RETURNED_MAX);
    assert!(due(&state));
    assert_eq!(apply(&mut state, 30_000, end()), 3);
    assert!(!due(&state));
    assert_eq!(apply(&mut state, 30_000, end()), 0);
}

/// Only the first hundred conflicts are listed, but all are counted.
#[test]
fn conflicts_are_listed_up_to_a_bound() {
    let mut state = state();
    let all = CONFLICTS_LISTED_MAX + 7;
    apply(&mut state, 0, (0..all).map(allocate));
    let smaller = command(topology("10.1.0.0/16", 32, &json!([{}])));
    let Err(Refusal::TopologyConflicts { conflicts, total }) = state.decide(&smaller, NOW) else {
        panic!("accepted");
    };
    assert_eq!((conflicts.len(), total), (CONFLICTS_LISTED_MAX, all as u64));
}

/// A program must not apply an entry that raises the cluster to a version that it does not support.
#[test]
fn versions_beyond_this_program() {
    let raise = |version| {
        let command = command(json!({"RaiseVersion": {"version": version}}));
        Entry { at: Millis(0), proposals: vec![Proposal { actor: "test".into(), command }] }
    };
    let mut state = state();
    for version in 2..=VERSION_MAX {
        assert_eq!(state.understands(&raise(version)), Ok(()));
        apply(&mut state, 0, [json!({"RaiseVersion": {"version": version}})]);
    }
    assert_eq!(state.understands(&raise(VERSION_MAX + 1)), Err(VERSION_MAX + 1));
    // Not the next version: all programs refuse it alike.
    assert_eq!(state.understands(&raise(VERSION_MAX + 2)), Ok(()));
}
