//! Romana under real kubelets: two to five nodes of Kubernetes 1.20 with containerd, kubelet and kube-proxy, in namespaces of
//! this machine. What is applied is what users apply, and what is looked at are packets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod allocations;
mod api;
mod backup;
mod connectivity;
mod control_plane;
mod faults;
mod images;
mod kernel;
mod lab;
mod lives;
mod machine;
mod node;
mod objects;
mod pods;
mod policies;
mod removal;
mod replicas;
mod rolling;
mod streams;
mod upkeep;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use romana_testing::{must, output};
use serde_json::{Value, json};

use lab::Lab;
use pods::Pod;

/// Timeout of all waits: kubelets are slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// The same where nodes restart one after the other, or Kubernetes has long timers of its own.
const SLOW: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(50);

/// An overlay that is applied: `single` or `three` replicas with the topology of `custom-topology`, `backup`, `restore`.
fn overlay(name: &str) -> String {
    let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubelets/overlays");
    overlays.join(name).to_str().expect("a path").to_owned()
}

/// `kubectl apply -k`, and nothing else.
async fn install(lab: &Lab, name: &str) {
    for (ready, message) in lab.readiness().await {
        assert!(!ready && message.contains("cni"), "there is no network yet: {message}");
    }
    lab.api.run(&["apply", "--kustomize", &overlay(name)]);
    lab.until_within(SLOW, "all nodes are ready", async || {
        let nodes = lab.readiness().await;
        nodes.len() == lab.nodes.len() && nodes.iter().all(|(ready, _)| *ready)
    })
    .await;
    let apps = "/apis/apps/v1/namespaces/kube-system";
    lab.until_within(SLOW, "Romana is ready", async || {
        let replicas = lab.api.get(&format!("{apps}/statefulsets/romanad")).await;
        let agents = lab.api.get(&format!("{apps}/daemonsets/romana-agent")).await;
        replicas["status"]["readyReplicas"] == replicas["spec"]["replicas"]
            && agents["status"]["numberReady"] == json!(lab.nodes.len())
    })
    .await;
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Waits until this many pods with a label are ready.
async fn ready(lab: &Lab, namespace: &str, selector: &str, count: usize) -> Vec<Pod> {
    let mut listed = Vec::new();
    lab.until(&format!("{count} pods {selector} are ready"), async || {
        listed = lab.api.pods(namespace, selector).await;
        listed.len() == count && listed.iter().all(is_ready)
    })
    .await;
    Pod::all(lab, &listed)
}

/// Pods with the label `app: web`, where the scheduler puts them.
async fn pods_of(lab: &Lab, count: usize) -> Vec<Pod> {
    let web = objects::workload("Deployment", "shop", "web", count, objects::answering());
    lab.api.apply(&[objects::namespace("shop"), web]);
    let pods = ready(lab, "shop", "app=web", count).await;
    for node in &lab.nodes {
        let here = pods.iter().filter(|pod| pod.node == node.machine.name).count();
        assert!(
            here >= count / (2 * lab.nodes.len()),
            "{} has {here} of {count} pods",
            node.machine.name
        );
    }
    pods
}

/// Every pod has an address of its own, inside the group of its node's rack, and is an endpoint with it.
async fn assert_addresses(lab: &Lab, pods: &[Pod]) {
    let network = lab.romana("/v1/networks/my-network").await;
    let unique: HashSet<IpAddr> = pods.iter().map(|pod| pod.ip).collect();
    assert_eq!(unique.len(), pods.len(), "{pods:?}");
    lab.until("every pod is an endpoint", async || {
        let endpoints = lab.romana_list("/v1/endpoints?limit=1000").await.unwrap_or_default();
        pods.iter().all(|pod| {
            let is_this = |endpoint: &&Value| endpoint["ip"] == json!(pod.ip);
            endpoints.iter().find(is_this).is_some_and(|endpoint| {
                endpoint["host"] == pod.node.as_str() && endpoint["tenant"] == "shop"
            })
        })
    })
    .await;
    for pod in pods {
        let rack = node::rack(&pod.node);
        let group = group(&network, &rack);
        assert!(group.contains(&pod.ip), "{pod:?} is outside {group} of {rack}");
    }
}

/// The range of a group.
fn group(network: &Value, name: &str) -> IpNet {
    let groups = network["groups"].as_array().expect("groups");
    let found = groups.iter().find(|group| group["name"] == name).expect("the group");
    found["cidr"].as_str().unwrap().parse().unwrap()
}

/// Real connections, from every pod to every other.
async fn all_reach_each_other(lab: &Lab, pods: &[Pod]) {
    for from in pods {
        let others: Vec<&Pod> = pods.iter().filter(|pod| pod.name != from.name).collect();
        connections(lab, from, &others, true).await;
    }
}

/// Waits until a pod reaches all others, or none.
async fn connections(lab: &Lab, from: &Pod, to: &[&Pod], allowed: bool) {
    let begun = Instant::now();
    loop {
        let reached = from.reaches(to);
        let wrong = to.iter().zip(reached).filter(|(_, reached)| *reached != allowed);
        let wrong: Vec<&str> = wrong.map(|(pod, _)| pod.name.as_str()).collect();
        if wrong.is_empty() {
            return;
        }
        if begun.elapsed() > PATIENCE {
            let what = format!("{} on {} reaches {wrong:?}: {}", from.name, from.node, !allowed);
            panic!("after {:?}: {what}\n{}", begun.elapsed(), lab.report().await);
        }
        let count = wrong.len();
        println!("{:>6} ms  {}: {count} wrong", begun.elapsed().as_millis(), from.name);
        tokio::time::sleep(LOOK).await;
    }
}

/// The fixed part: one cluster for all of it.
#[tokio::test]
async fn from_an_empty_cluster_to_a_working_network() {
    let Some(lab) = Lab::start(2, 1).await else { return };
    install(&lab, "single").await;
    let before = removal::traces(&lab);
    let pods = pods_of(&lab, 30).await;
    assert_addresses(&lab, &pods).await;
    all_reach_each_other(&lab, &pods).await;
    let clients = policies::are_enforced(&lab, &pods).await;
    lives::in_the_network_of_the_node(&lab).await;
    lives::ended(&lab).await;
    lives::come_back(&lab, &clients.friend).await;
    lives::long_in_ending(&lab, &clients.friend, &clients.stranger).await;
    removal::of_namespaces(&lab, &["shop", "market"], &before).await;
    removal::of_romana(&lab).await;
}

#[tokio::test]
#[ignore = "minutes: part of `make test-kubernetes`"]
async fn faults_in_the_middle() {
    let Some(mut lab) = Lab::start(2, 1).await else { return };
    install(&lab, "single").await;
    let before = removal::traces(&lab);
    let pods = pods_of(&lab, 4).await;
    faults::without_the_api_server(&mut lab, &pods).await;
    faults::in_the_middle(&mut lab).await;
    removal::of_namespaces(&lab, &["shop"], &before).await;
}

#[tokio::test]
#[ignore = "minutes: part of `make test-kubernetes`"]
async fn three_replicas_on_five_nodes() {
    let Some(lab) = Lab::start(5, 3).await else { return };
    install(&lab, "three").await;
    replicas::are(&lab, &[0, 1, 2]).await;
    replicas::are_spread(&lab, &[0, 1, 2]).await;
    let pods = pods_of(&lab, 15).await;
    assert_addresses(&lab, &pods).await;
    all_reach_each_other(&lab, &pods).await;
    connectivity::promises_hold(&lab).await;
    connectivity::stopped_tests_leave_nothing(&lab).await;
    replicas::are_killed(&lab, &pods).await;
    replicas::lose_a_volume(&lab, &pods).await;
    replicas::become_five_and_three(&lab, &pods).await;
}

#[tokio::test]
#[ignore = "minutes: part of `make test-kubernetes`"]
async fn restarts_under_load() {
    let Some(lab) = Lab::start(3, 3).await else { return };
    install(&lab, "three").await;
    let pods = pods_of(&lab, 6).await;
    rolling::restarts_lose_nothing(&lab, &pods).await;
}

#[tokio::test]
#[ignore = "minutes: part of `make test-kubernetes`"]
async fn backups_are_restored() {
    let Some(lab) = Lab::start(3, 3).await else { return };
    backup::make_volume(&lab);
    install(&lab, "backup").await;
    let pods = pods_of(&lab, 6).await;
    backup::saved_and_restored(&lab, &pods).await;
}

#[tokio::test]
#[ignore = "minutes: part of `make test-kubernetes`"]
async fn nodes_are_removed_drained_and_rebooted() {
    let Some(mut lab) = Lab::start(4, 3).await else { return };
    install(&lab, "three").await;
    let pods = pods_of(&lab, 8).await;
    all_reach_each_other(&lab, &pods).await;
    upkeep::removed(&mut lab, "n4").await;
    upkeep::drained(&lab, "n3").await;
    upkeep::rebooted(&mut lab, "n2").await;
}
