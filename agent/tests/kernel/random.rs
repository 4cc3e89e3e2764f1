//! Arbitrary policies on a real kernel: every connection behaves as `GET /v1/verdict` says. A failing round
//! prints its seed; `ROMANA_POLICY_SEED` repeats it, `ROMANA_POLICY_ROUNDS` sets the number of rounds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use romana_statemachine::Command;
use romana_statemachine::policy::party::Transport;
use serde_json::{Value, json};

use crate::cluster::{labels, policy};
use crate::lab::{Lab, addresses, until};
use crate::probe::{reached, serve};

const PROBES: [(&str, Transport); 4] = [
    ("tcp/80", Transport::Tcp(80)),
    ("tcp/81", Transport::Tcp(81)),
    ("udp/80", Transport::Udp(80)),
    ("udp/53", Transport::Udp(53)),
];
const PODS: [(&str, &str, &str, &str); 9] = [
    ("a", "h1", "plain", "s1"),
    ("b", "h1", "kube", "s1"),
    ("c", "h1", "kube", "s2"),
    ("d", "h2", "plain", "s2"),
    ("e", "h2", "kube", "s1"),
    ("f", "h2", "other", "s1"),
    ("g", "h3", "plain", "s1"),
    ("i", "h3", "kube", "s2"),
    ("j", "h3", "other", "s2"),
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn world() -> (Lab, BTreeMap<&'static str, IpAddr>) {
    let mut lab = Lab::one_link();
    lab.closed_topology(&json!({
        "networks": [{"name": "n4", "cidr": "10.0.0.0/26", "block_mask": 30}],
        "topologies": [{"networks": ["n4"], "map": [{}]}]}));
    for n in 1..=3 {
        lab.start_agent(&format!("h{n}"), &["--register", "--host-ip", &format!("10.77.0.{n}")]);
    }
    let kube = json!({"id": "kube", "labels": {"kubernetes.io/metadata.name": "kube", "t": "1"}});
    lab.submit(vec![serde_json::from_value(json!({"CreateTenant": kube})).expect("a command")]);
    let mut pods = BTreeMap::new();
    for (name, host, tenant, segment) in PODS {
        let netns = lab.container(name);
        let mut add = lab.cni(host, "ADD", name, &netns);
        add.set("CNI_ARGS", &format!("K8S_POD_NAMESPACE={tenant};K8S_POD_NAME={name}"));
        add.config["segment"] = json!(segment);
        pods.insert(name, addresses(&add.ok())[0]);
        serve(&lab.ns(name), &[53, 80, 81]);
    }
    (lab, pods)
}

/// Three policies, and labels and ports for most endpoints.
fn round(seed: u64, pods: &BTreeMap<&str, IpAddr>) -> Vec<Value> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut draw = |strategy: proptest::strategy::BoxedStrategy<Value>| {
        strategy.new_tree(&mut runner).expect("a value").current()
    };
    let mut commands = Vec::new();
    for (name, host, tenant, segment) in PODS {
        // One stays unknown: isolated if its tenant is a Kubernetes namespace.
        if name == "c" && seed.is_multiple_of(2) {
            commands.push(json!({"RemoveEndpoint": {"ip": pods[name]}}));
            continue;
        }
        let ports = if name < "e" { 80 } else { 81 };
        commands.push(
            json!({"SetEndpoint": {"ip": pods[name], "tenant": tenant, "segment": segment,
            "host": host, "labels": draw(labels().boxed()),
            "ports": [{"name": "http", "protocol": "tcp", "port": ports}]}}),
        );
    }
    commands.extend((0..4).map(|_| draw(policy().boxed())));
    commands
}

#[test]
fn arbitrary_policies_fare_as_explained_in_namespaces() {
    let (lab, pods) = world();
    let first = number("ROMANA_POLICY_SEED").unwrap_or(1);
    let rounds = number("ROMANA_POLICY_ROUNDS").unwrap_or(12);
    for seed in first..first + rounds {
        let mut commands: Vec<Command> = ["p", "q", "kube.kube.r", "s"]
            .iter()
            .filter(|name| {
                lab.romana(&["policy", "list"])["items"]
                    .to_string()
                    .contains(&format!("\"{name}\""))
            })
            .map(|name| {
                serde_json::from_value(json!({"RemovePolicy": {"name": name}})).expect("a command")
            })
            .collect();
        let told = round(seed, &pods);
        for value in &told {
            let command: Command = serde_json::from_value(value.clone()).expect("a command");
            // Not every policy that can be written can be enforced.
            if !matches!(&command, Command::SetPolicy(policy) if policy.check().is_err()) {
                commands.push(command);
            }
        }
        let revision = lab.submit(commands);
        lab.settled(revision);
        let expected = explained(&lab, &pods);
        let mut wrong = differing(&lab, &pods, &expected);
        if !wrong.is_empty() {
            // On a busy machine an answer may be late.
            wrong = differing(&lab, &pods, &expected);
        }
        assert!(wrong.is_empty(), "ROMANA_POLICY_SEED={seed}: {wrong:#?}\n{told:#?}");
    }
    until("all agents are content", || {
        (1..=3).all(|n| lab.status(&format!("h{n}")).is_some_and(|status| status.agrees()))
    });
}

type Verdicts = BTreeMap<(&'static str, &'static str, &'static str), bool>;

fn explained(lab: &Lab, pods: &BTreeMap<&'static str, IpAddr>) -> Verdicts {
    let mut asked = Vec::new();
    for (from, source) in pods {
        for (to, destination) in pods.iter().filter(|(to, _)| *to != from) {
            for (probe, _) in PROBES {
                let path = format!(
                    "/v1/verdict?source={source}&destination={destination}&traffic={probe}"
                );
                asked.push(((*from, *to, probe), path));
            }
        }
    }
    let (keys, paths): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let answers = lab.get(paths).into_iter().map(|answer| answer["allowed"] == true);
    keys.into_iter().zip(answers).collect()
}

fn differing(lab: &Lab, pods: &BTreeMap<&'static str, IpAddr>, expected: &Verdicts) -> Vec<String> {
    let from = |from: &'static str| {
        let others = pods.iter().filter(move |(to, _)| **to != from);
        let asked: Vec<_> = others
            .flat_map(|(to, ip)| {
                PROBES.map(|(probe, transport)| ((from, *to, probe), (*ip, transport)))
            })
            .collect();
        let packets: Vec<_> = asked.iter().map(|(_, packet)| *packet).collect();
        let found = reached(&lab.ns(from), &packets);
        let pairs =
            asked.into_iter().zip(found).filter(|((key, _), found)| expected[key] != *found);
        pairs.map(|((key, _), found)| format!("{key:?}: {found}")).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = pods.keys().map(|name| scope.spawn(|| from(name))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
    })
}
