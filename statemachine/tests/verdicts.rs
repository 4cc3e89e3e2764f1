//! The evaluator against independently computed verdicts: Cyclonus' 230 cases, 123 669 probes between different pods
//! (`shared/judges/cyclonus_cases.json`), and cases that Cyclonus lacks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::path::Path;

use romana_statemachine::policy::Policy;
use romana_statemachine::policy::compare::{PAIRS_MAX, RANGES_MAX, compare};
use romana_statemachine::policy::evaluate::{Why, verdict};
use romana_statemachine::policy::kubernetes::NetworkPolicy;
use romana_statemachine::policy::party::Transport;
use romana_statemachine::{Command, Entry, Index, Millis, Position, Proposal, State, Term};
use serde_json::{Value, json};

/// A state built by commands.
struct World {
    state: State,
    index: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self { state: State::new(), index: 0 };
        world.tell(json!({"SetTopology": {
            "networks": [{"name": "n", "cidr": "10.111.0.0/16", "block_mask": 32}],
            "topologies": [{"networks": ["n"], "map": [{}]}]}}));
        for n in 1..=3 {
            let host = json!({"name": format!("h{n}"), "ip": format!("192.168.0.{n}")});
            world.tell(json!({"AddHost": host}));
        }
        world
    }

    fn tell(&mut self, command: Value) {
        let command: Command = serde_json::from_value(command).unwrap();
        self.index += 1;
        let (at, position) =
            (Millis(self.index), Position { term: Term(1), index: Index(self.index) });
        let proposals = vec![Proposal { actor: "test".into(), command: command.clone() }];
        let (outcomes, _) = self.state.apply(position, &Entry { at, proposals });
        assert!(outcomes[0].result.is_ok(), "{command:?}: {:?}", outcomes[0]);
    }

    fn pod(&mut self, pod: &str, ip: &str, labels: &Value) {
        let (tenant, name) = pod.split_once('/').unwrap();
        let host = match name {
            "b" => "h2",
            "c" => "h3",
            _ => "h1",
        };
        let ports: Vec<Value> = [80, 81]
            .iter()
            .flat_map(|port| {
                ["tcp", "udp", "sctp"].map(|protocol| {
                    json!({"name": format!("serve-{port}-{protocol}"), "protocol": protocol, "port": port})
                })
            })
            .collect();
        self.tell(json!({"SetEndpoint": {"ip": ip, "tenant": tenant, "segment": "default",
            "host": host, "labels": labels, "ports": ports}}));
    }

    fn policy(&mut self, object: &Value) {
        let object: NetworkPolicy = serde_json::from_value(object.clone()).unwrap();
        self.tell(json!({"SetPolicy": object.policy().unwrap()}));
    }

    fn allows(&self, from: &str, to: &str, packet: Transport) -> bool {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        verdict(&self.state, ip(from), ip(to), packet).is_allowed()
    }
}

fn judge() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/judges/cyclonus_cases.json");
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{} is needed: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn packet(probe: &str) -> Transport {
    let (protocol, port) = probe.split_once('/').unwrap();
    let port: u16 =
        port.strip_prefix("serve-").unwrap_or(port).split('-').next().unwrap().parse().unwrap();
    match protocol {
        "TCP" => Transport::Tcp(port),
        "UDP" => Transport::Udp(port),
        "SCTP" => Transport::Sctp(port),
        other => panic!("{other}"),
    }
}

/// Brings the state to that of a step of a case, whatever the previous state.
fn step(world: &mut World, step: &Value) {
    for (tenant, labels) in step["namespaceLabels"].as_object().unwrap() {
        world.tell(json!({"CreateTenant": {"id": tenant, "labels": labels}}));
    }
    let mut wanted = Vec::new();
    for pod in step["pods"].as_array().unwrap() {
        let (pod, ip) = pod.as_str().unwrap().split_once('=').unwrap();
        world.pod(pod, ip, &step["podLabels"][pod]);
        wanted.push(ip.parse::<IpAddr>().unwrap());
    }
    let gone: Vec<IpAddr> =
        world.state.endpoints().map(|e| e.ip).filter(|ip| !wanted.contains(ip)).collect();
    gone.iter().for_each(|ip| world.tell(json!({"RemoveEndpoint": {"ip": ip}})));
    for action in step["actions"].as_array().into_iter().flatten() {
        for policy in ["createPolicy", "updatePolicy"].iter().filter_map(|key| action.get(key)) {
            world.policy(policy);
        }
        if let Some(gone) = action.get("deletePolicy") {
            let name = format!("kube.{}", gone.as_str().unwrap().replace('/', "."));
            world.tell(json!({"RemovePolicy": {"name": name}}));
        }
    }
}

#[test]
fn the_evaluator_agrees_with_cyclonus() {
    let (mut probes, mut wrong) = (0, Vec::new());
    let cases = judge();
    let cases = cases["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 230);
    for case in cases {
        let mut world = World::new();
        for one in case["steps"].as_array().unwrap() {
            step(&mut world, one);
            let pods = one["pods"].as_array().unwrap();
            let ips: Vec<&str> =
                pods.iter().map(|pod| pod.as_str().unwrap().split_once('=').unwrap().1).collect();
            for (probe, rows) in one["expect"].as_object().unwrap() {
                for (i, row) in rows.as_array().unwrap().iter().enumerate() {
                    for (j, expected) in row.as_str().unwrap().chars().enumerate() {
                        if i == j {
                            continue;
                        }
                        probes += 1;
                        if world.allows(ips[i], ips[j], packet(probe)) != (expected == '.') {
                            wrong.push(format!(
                                "case {}: {probe} {} {}",
                                case["id"], ips[i], ips[j]
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {probes} probes: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
    assert!(probes > 100_000, "{probes}");
}

/// Kubernetes matches `NotIn` and `DoesNotExist` if the key is missing; Cyclonus has no such case.
#[test]
fn missing_keys_match_not_in_and_does_not_exist() {
    for (operator, values) in [("NotIn", json!(["prod"])), ("DoesNotExist", json!([]))] {
        let mut world = World::new();
        world.tell(
            json!({"CreateTenant": {"id": "x", "labels": {"kubernetes.io/metadata.name": "x"}}}),
        );
        world.pod("x/a", "10.111.0.1", &json!({}));
        world.pod("x/b", "10.111.0.2", &json!({}));
        world.pod("x/c", "10.111.0.3", &json!({"env": "prod"}));
        let expression = json!([{"key": "env", "operator": operator, "values": values}]);
        world.policy(&json!({"metadata": {"namespace": "x", "name": "p"}, "spec": {
            "podSelector": {"matchExpressions": expression},
            "ingress": [{"from": [{"podSelector": {"matchExpressions": expression}}]}]}}));
        let tcp = Transport::Tcp(80);
        assert!(world.allows("10.111.0.2", "10.111.0.1", tcp), "{operator}: both without the key");
        assert!(!world.allows("10.111.0.3", "10.111.0.1", tcp), "{operator}: the source has it");
        assert!(world.allows("10.111.0.1", "10.111.0.3", tcp), "{operator}: the target has it");
    }
}

/// An endpoint without policies: closed if its tenant is not a Kubernetes namespace, open if it is, and closed while
/// the pod is unknown.
#[test]
fn what_no_policy_selects() {
    let mut world = World::new();
    world
        .tell(json!({"CreateTenant": {"id": "k", "labels": {"kubernetes.io/metadata.name": "k"}}}));
    world.pod("k/a", "10.111.0.1", &json!({}));
    world.pod("t/a", "10.111.0.2", &json!({}));
    world.tell(json!({"AllocateAddress": {"name": "new", "host": "h1", "tenant": "k",
        "segment": "default", "ip": "10.111.0.9"}}));
    let why = |from: &str, to: &str| {
        let verdict =
            verdict(&world.state, from.parse().unwrap(), to.parse().unwrap(), Transport::Tcp(80));
        (verdict.egress.why, verdict.ingress.why)
    };
    let (open, closed) = (Why::NotIsolated, Why::ClosedByDefault);
    assert_eq!(why("10.111.0.2", "10.111.0.1"), (open, open));
    assert_eq!(why("10.111.0.1", "10.111.0.2"), (open, closed));
    assert_eq!(why("192.168.0.1", "10.111.0.2"), (open, closed), "the host is no exception");
    assert_eq!(why("192.168.0.1", "10.111.0.1"), (open, Why::OwnNode));
    assert_eq!(why("192.168.0.2", "10.111.0.1"), (open, open));
    assert_eq!(why("10.111.0.1", "10.111.0.9"), (open, Why::Unknown));
    assert_eq!(why("10.111.0.9", "192.168.0.1"), (Why::Unknown, open));
    assert_eq!(why("8.8.8.8", "9.9.9.9"), (open, open));
    assert_eq!(why("10.111.0.2", "10.111.0.2"), (Why::Itself, Why::Itself));
}

/// A pod of an unknown namespace is closed if a policy selects pods of that namespace by labels; an address that is
/// not a pod's is not, because no labels will follow.
#[test]
fn who_waits_for_its_namespace() {
    let mut world = World::new();
    for (name, ip) in [
        ("cni:late.web:c1:eth0", "10.111.0.1"),
        ("cni:other.web:c2:eth0", "10.111.0.2"),
        ("cni:late:c3:eth0", "10.111.0.3"),
    ] {
        let tenant = if name.contains("late") { "late" } else { "other" };
        world.tell(json!({"AllocateAddress": {"name": name, "host": "h1", "tenant": tenant,
            "segment": "default", "ip": ip}}));
    }
    let selects = |labels: Value| {
        json!({"SetPolicy": {"name": "p", "isolates_ingress": false,
        "isolates_egress": true, "applied_to": [{"Endpoints": ["late", {"labels": labels}]}],
        "ingress": [], "egress": []}})
    };
    let leaves = |world: &World, from: &str| {
        let to = "8.8.8.8".parse().unwrap();
        verdict(&world.state, from.parse().unwrap(), to, Transport::Tcp(80)).egress.why
    };
    world.tell(selects(json!({"app": "web"})));
    assert_eq!(leaves(&world, "10.111.0.1"), Why::Unknown);
    assert_eq!(leaves(&world, "10.111.0.2"), Why::NotIsolated, "no policy is about its namespace");
    assert_eq!(leaves(&world, "10.111.0.3"), Why::NotIsolated, "it is no pod");
    world.tell(json!({"SetEndpoint": {"ip": "10.111.0.1", "tenant": "late", "segment": "default",
        "host": "h1", "labels": {"app": "db"}}}));
    assert_eq!(leaves(&world, "10.111.0.1"), Why::NotIsolated, "its labels are known");
    world.tell(json!({"RemoveEndpoint": {"ip": "10.111.0.1"}}));
    world.tell(selects(json!({})));
    assert_eq!(leaves(&world, "10.111.0.1"), Why::Denied, "whatever its labels are");
}

/// Endpoints: .1 a/s1 on h1 with x=1, .2 a/s2 on h2 with y=2 and port http, .3 b/s1 on h1. b has t=1.
fn three_endpoints() -> World {
    let mut world = World::new();
    world.tell(json!({"CreateTenant": {"id": "b", "labels": {"t": "1"}}}));
    let port = json!([{"name": "http", "protocol": "tcp", "port": 8080}]);
    for (ip, tenant, segment, host, labels, ports) in [
        ("10.111.0.1", "a", "s1", "h1", json!({"x": "1"}), json!([])),
        ("10.111.0.2", "a", "s2", "h2", json!({"y": "2"}), port),
        ("10.111.0.3", "b", "s1", "h1", json!({}), json!([])),
    ] {
        world.tell(json!({"SetEndpoint": {"ip": ip, "tenant": tenant, "segment": segment,
            "host": host, "labels": labels, "ports": ports}}));
    }
    world
}

/// A policy of `fields.txt`: any peer may reach tenant `a`, with a change.
fn changed(change: &str) -> Value {
    let mut policy = json!({"name": "p", "applied_to": [{"Tenant": "a"}], "isolates_ingress": true,
        "isolates_egress": false,
        "ingress": [{"peers": ["Any"], "traffic": [{"protocol": "any"}]}]});
    let change: Value = serde_json::from_str(change).expect(change);
    policy.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    policy
}

/// `from -> to tcp/80`.
fn crossing(line: &str) -> (&str, &str, Transport) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [from, "->", to, what] = words[..] else { panic!("{line:?} is no packet") };
    (from, to, Transport::parse(what, true).expect(what))
}

/// Two policies that differ in one field give different verdicts for a packet: no field is silently ignored.
#[test]
fn every_field_of_a_policy_changes_a_verdict() {
    let cases = include_str!("fields.txt").split("\n\n").skip(1);
    for case in cases {
        let lines: Vec<&str> = case.trim().lines().collect();
        let [field, this, other, line] = lines[..] else { panic!("{case:?} is no case") };
        let (from, to, packet) = crossing(line);
        let verdicts = [this, other].map(|change| {
            let mut world = three_endpoints();
            world.tell(json!({"SetPolicy": changed(change)}));
            world.allows(from, to, packet)
        });
        assert_ne!(verdicts[0], verdicts[1], "{field}");
    }
}

/// An incomplete preview states how much is missing, and is exact for what it covers.
#[test]
fn what_a_preview_leaves_out_is_said() {
    let mut world = World::new();
    for n in 0..150 {
        world.pod(&format!("t/p{n}"), &format!("10.111.1.{n}"), &json!({}));
    }
    let ranges: Vec<Value> = (0..RANGES_MAX)
        .map(|n| json!({"Cidr": {"cidr": format!("172.16.{n}.0/24"), "except": []}}))
        .collect();
    let rule = json!({"peers": ranges, "traffic": [{"protocol": "any"}]});
    let policy = json!({"name": "p", "applied_to": [{"Tenant": "t"}], "isolates_ingress": true,
        "isolates_egress": false, "ingress": [rule]});
    let policy: Policy = serde_json::from_value(policy).unwrap();
    let found = compare(&world.state, std::slice::from_ref(&policy));
    assert_eq!((found.ranges.len(), found.ranges_left.len()), (RANGES_MAX, 2));
    assert_eq!(found.ranges_left[1].to_string(), "172.16.255.0/24");
    // 150 pods and 3 hosts; 0.0.0.0/0 and 254 of the ranges as peers. Pairs of hosts are not concerned.
    let pairs = 153 * 152 - 3 * 2 + 2 * 150 * 255;
    assert_eq!((found.pairs, found.pairs_left), (PAIRS_MAX, pairs - PAIRS_MAX as u64));
    let few = world.state.endpoints().take(20).map(|endpoint| endpoint.ip).collect::<Vec<_>>();
    let (mut small, one) = (World::new(), Policy { ingress: Vec::new(), ..policy });
    few.iter().enumerate().for_each(|(n, ip)| {
        small.pod(&format!("t/p{n}"), &ip.to_string(), &json!({}));
    });
    let found = compare(&small.state, &[one]);
    assert_eq!((found.pairs, found.pairs_left), (23 * 22 - 3 * 2 + 2 * 20, 0));
}
