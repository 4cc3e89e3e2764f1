//! Cyclonus' test cases on a real kernel: nine pods in three namespaces on three hosts, every pair, TCP and
//! UDP. CI runs a fixed sample, `make test-policy` all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use romana_statemachine::Command;
use romana_statemachine::policy::kubernetes::NetworkPolicy;
use romana_statemachine::policy::party::Transport;
use serde_json::{Value, json};

use crate::lab::{Lab, until};
use crate::probe::{reached, serve};

/// Protocols and ports of the probes.
const PROBES: [(&str, Transport); 4] = [
    ("TCP/80", Transport::Tcp(80)),
    ("TCP/81", Transport::Tcp(81)),
    ("UDP/80", Transport::Udp(80)),
    ("UDP/81", Transport::Udp(81)),
];
/// CI runs every sixth case: a sample with cases of every group, and all that
/// change pods, labels or namespaces.
const EVERY: usize = 6;

/// The pods, the cluster, and the objects of the current case.
struct World {
    lab: Lab,
    /// Container namespace and host of each pod.
    pods: BTreeMap<String, (String, String)>,
    policies: BTreeSet<String>,
    labels: BTreeMap<String, Value>,
    tenants: BTreeMap<String, Value>,
}

fn command(value: Value) -> Command {
    serde_json::from_value(value).expect("a command")
}

impl World {
    fn new() -> Self {
        let mut lab = Lab::one_link();
        lab.closed_topology(&json!({
            "networks": [{"name": "pods", "cidr": "10.111.0.0/16", "block_mask": 32}],
            "topologies": [{"networks": ["pods"], "map": [{}]}]}));
        // Cases reuse addresses immediately.
        lab.romana(&["settings", "set", "address_reuse_delay=0"]);
        for n in 1..=3 {
            let ip = format!("10.77.0.{n}");
            lab.start_agent(&format!("h{n}"), &["--register", "--host-ip", &ip]);
        }
        until("all hosts are there", || {
            let hosts = lab.romana(&["host", "list"]);
            hosts["items"].as_array().is_some_and(|hosts| hosts.len() == 3)
        });
        let (pods, policies, labels, tenants) = Default::default();
        Self { lab, pods, policies, labels, tenants }
    }

    /// Attaches missing pods, and detaches those that are not wanted.
    fn pods(&mut self, wanted: &BTreeMap<String, IpAddr>) {
        let gone: Vec<String> =
            self.pods.keys().filter(|pod| !wanted.contains_key(*pod)).cloned().collect();
        for pod in gone {
            let Some((container, host)) = self.pods.remove(&pod) else { continue };
            self.cni(&pod, &host, "DEL", &container, None);
            self.lab.delete_container(&container);
            self.labels.remove(&pod);
        }
        for (pod, ip) in wanted {
            if self.pods.contains_key(pod) {
                continue;
            }
            let container = pod.replace('/', "-");
            let host = match pod.split_once('/') {
                Some((_, "b")) => "h2",
                Some((_, "c")) => "h3",
                _ => "h1",
            };
            self.lab.container(&container);
            self.cni(pod, host, "ADD", &container, Some(*ip));
            serve(&self.lab.ns(&container), &[80, 81]);
            self.pods.insert(pod.clone(), (container, host.into()));
        }
    }

    fn cni(&self, pod: &str, host: &str, verb: &str, container: &str, ip: Option<IpAddr>) {
        let netns = format!("/run/netns/{}", self.lab.ns(container));
        let mut call = self.lab.cni(host, verb, container, &netns);
        let (tenant, name) = pod.split_once('/').expect("namespace/name");
        call.set("CNI_ARGS", &format!("K8S_POD_NAMESPACE={tenant};K8S_POD_NAME={name}"));
        if let Some(ip) = ip {
            call.config["runtimeConfig"] = json!({"ips": [format!("{ip}/32")]});
        }
        call.ok();
    }

    /// Brings the cluster to the state of a step. Returns the revision.
    fn step(&mut self, step: &Value) {
        let wanted = addresses(step);
        let mut commands = Vec::new();
        for (tenant, labels) in step["namespaceLabels"].as_object().expect("labels") {
            if self.tenants.get(tenant) != Some(labels) {
                self.tenants.insert(tenant.clone(), labels.clone());
                commands.push(command(json!({"CreateTenant": {"id": tenant, "labels": labels}})));
            }
        }
        self.pods(&wanted);
        for (pod, ip) in &wanted {
            let labels = &step["podLabels"][pod];
            if self.labels.get(pod) == Some(labels) {
                continue;
            }
            self.labels.insert(pod.clone(), labels.clone());
            let (tenant, _) = pod.split_once('/').expect("namespace/name");
            let port = |port: u16, protocol: &str| json!({"name": format!("serve-{port}-{protocol}"), "protocol": protocol, "port": port});
            let ports: Vec<Value> = [80, 81]
                .into_iter()
                .flat_map(|number| ["tcp", "udp", "sctp"].map(|protocol| port(number, protocol)))
                .collect();
            commands.push(command(json!({"SetEndpoint": {"ip": ip, "tenant": tenant,
                "segment": "default", "host": self.pods[pod].1, "labels": labels, "ports": ports}})));
        }
        for action in step["actions"].as_array().into_iter().flatten() {
            for object in ["createPolicy", "updatePolicy"].iter().filter_map(|key| action.get(key))
            {
                let object: NetworkPolicy =
                    serde_json::from_value(object.clone()).expect("a policy");
                let policy = object.policy().expect("it can be enforced");
                self.policies.insert(policy.name.to_string());
                commands.push(Command::SetPolicy(policy));
            }
            if let Some(gone) = action.get("deletePolicy") {
                let name = format!("kube.{}", gone.as_str().expect("a name").replace('/', "."));
                self.policies.remove(&name);
                commands.push(command(json!({"RemovePolicy": {"name": name}})));
            }
        }
        self.submit(commands);
    }

    fn submit(&self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let revision = self.lab.submit(commands);
            self.lab.settled(revision);
        }
    }

    /// Results of real connections that differ from the expected ones.
    fn differing(&self, step: &Value) -> Vec<String> {
        let pods: Vec<(String, IpAddr)> = ordered(step);
        let verdicts = |(i, (from, _)): (usize, &(String, IpAddr))| {
            let others: Vec<usize> = (0..pods.len()).filter(|j| *j != i).collect();
            let asked: Vec<(IpAddr, Transport)> = others
                .iter()
                .flat_map(|j| PROBES.map(|(_, transport)| (pods[*j].1, transport)))
                .collect();
            let found = reached(&self.lab.ns(&self.pods[from].0), &asked);
            let mut wrong = Vec::new();
            for (at, found) in found.into_iter().enumerate() {
                let (j, probe) = (others[at / PROBES.len()], PROBES[at % PROBES.len()].0);
                let Some(rows) = step["expect"].get(probe) else { continue };
                let row = rows[i].as_str().expect("a row");
                let expected = row.as_bytes()[j] == b'.';
                if found != expected {
                    wrong.push(format!("{probe} {from} -> {}: {found}", pods[j].0));
                }
            }
            wrong
        };
        std::thread::scope(|scope| {
            let verdicts = &verdicts;
            let threads: Vec<_> =
                pods.iter().enumerate().map(|pod| scope.spawn(move || verdicts(pod))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
        })
    }

    /// Removes the objects of the case.
    fn clear(&mut self) {
        let names = std::mem::take(&mut self.policies);
        self.submit(
            names.iter().map(|name| command(json!({"RemovePolicy": {"name": name}}))).collect(),
        );
    }
}

fn ordered(step: &Value) -> Vec<(String, IpAddr)> {
    let pods = step["pods"].as_array().expect("pods").iter();
    let pair = |pod: &Value| {
        let (pod, ip) = pod.as_str().expect("text").split_once('=').expect("pod=ip");
        (pod.to_owned(), ip.parse().expect("an address"))
    };
    pods.map(pair).collect()
}

fn addresses(step: &Value) -> BTreeMap<String, IpAddr> {
    ordered(step).into_iter().collect()
}

fn cases() -> Vec<Value> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/judges/cyclonus_cases.json");
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{} is needed: {error}", path.display()));
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all["cases"].as_array().expect("cases").clone()
}

fn run(cases: &[Value]) {
    let mut world = World::new();
    let (mut steps, mut wrong) = (0, Vec::new());
    for case in cases {
        for (n, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            world.step(step);
            steps += 1;
            let mut differing = world.differing(step);
            if !differing.is_empty() {
                // On a busy machine an answer may be late, but a drop is never early.
                differing = world.differing(step);
            }
            wrong.extend(
                differing.iter().map(|what| format!("case {} step {n}: {what}", case["id"])),
            );
        }
        world.clear();
    }
    assert!(wrong.is_empty(), "{} wrong in {steps} steps: {wrong:#?}", wrong.len());
}

#[test]
fn a_sample_of_cyclonus_on_nine_pods_in_namespaces() {
    let all = cases();
    let steps = |case: &Value| case["steps"].as_array().map_or(0, Vec::len);
    let sample = all.iter().enumerate().filter(|(n, case)| n % EVERY == 0 || steps(case) > 1);
    let sample: Vec<Value> = sample.map(|(_, case)| case.clone()).collect();
    assert!(sample.len() > 40);
    run(&sample);
}

#[test]
#[ignore = "minutes: make test-policy"]
fn all_of_cyclonus_on_nine_pods_in_namespaces() {
    run(&cases());
}
