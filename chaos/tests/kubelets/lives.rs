//! Lives of pods that others got wrong: in the node's network, ended, come back under the same name, and long in ending.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::Lab;
use crate::pods::Pod;
use crate::{connections, objects, ready};

/// How long the slow pod takes to end, and how long it is watched.
const GRACE_SECONDS: u64 = 15;
const WATCHED: Duration = Duration::from_secs(10);

/// Endpoints at an address.
async fn endpoints_at(lab: &Lab, ip: &str) -> Option<usize> {
    let all = lab.romana_list("/v1/endpoints?limit=1000").await?;
    Some(all.iter().filter(|endpoint| endpoint["ip"] == ip).count())
}

/// Addresses that the plugin has for a pod.
async fn addresses_of(lab: &Lab, pod: &str) -> Option<usize> {
    let all = lab.romana_list("/v1/addresses?limit=1000").await?;
    let prefix = format!("cni:{}:", pod.replace('/', "."));
    let name = |address: &Value| address["name"].as_str().unwrap_or_default().to_owned();
    Some(all.iter().filter(|address| name(address).starts_with(&prefix)).count())
}

/// A pod in its node's network is no endpoint.
pub(crate) async fn in_the_network_of_the_node(lab: &Lab) {
    let mut spec = objects::answering_on("n1");
    spec["hostNetwork"] = json!(true);
    lab.api.apply(&[objects::pod("shop", "host", json!({"app": "host"}), spec)]);
    let node = &lab.node("n1").address;
    lab.until("a pod in the node's network is ready", async || {
        let pod = lab.api.pod("shop", "host").await;
        crate::is_ready(&pod) && pod["status"]["podIP"] == node.as_str()
    })
    .await;
    assert_eq!(endpoints_at(lab, node).await, Some(0));
    assert_eq!(addresses_of(lab, "shop/host").await, Some(0));
}

/// A Job's pod stays listed, and keeps neither endpoint nor address.
pub(crate) async fn ended(lab: &Lab) {
    let mut spec = objects::answering();
    spec["containers"][0]["command"] = json!(["sh", "-c", "exit 0"]);
    spec["containers"][0]["readinessProbe"] = Value::Null;
    spec["restartPolicy"] = json!("Never");
    let template = json!({"metadata": {"labels": {"app": "task"}}, "spec": spec});
    lab.api.apply(&[json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "task", "namespace": "shop"},
        "spec": {"template": template},
    })]);
    let mut pod = Value::Null;
    lab.until("the Job has succeeded", async || {
        pod = lab.api.pods("shop", "app=task").await.pop().unwrap_or_default();
        pod["status"]["phase"] == "Succeeded"
    })
    .await;
    let name = format!("shop/{}", pod["metadata"]["name"].as_str().unwrap());
    let ip = pod["status"]["podIP"].as_str().unwrap_or("none").to_owned();
    lab.until("its endpoint and its address are gone", async || {
        endpoints_at(lab, &ip).await == Some(0) && addresses_of(lab, &name).await == Some(0)
    })
    .await;
    let still = lab.api.pods("shop", "app=task").await;
    assert_eq!(still.len(), 1, "the pod is listed, and no endpoint: {still:?}");
}

/// A StatefulSet's pod comes back under its name, while the kubelet still ends the earlier one.
pub(crate) async fn come_back(lab: &Lab, client: &Pod) {
    let set = objects::workload("StatefulSet", "shop", "db", 1, objects::answering());
    lab.api.apply(&[set]);
    let before = ready(lab, "shop", "app=db", 1).await.remove(0);
    let uid = lab.api.pod("shop", "db-0").await["metadata"]["uid"].clone();
    connections(lab, client, &[&before], true).await;
    let at_once = ["--force", "--grace-period=0", "--wait=false"];
    lab.api.run(&[&["delete", "pod", "--namespace=shop", "db-0"][..], &at_once].concat());
    lab.until("another pod has the name", async || {
        let pod = lab.api.pod("shop", "db-0").await;
        pod["metadata"]["uid"].is_string() && pod["metadata"]["uid"] != uid
    })
    .await;
    let after = ready(lab, "shop", "app=db", 1).await.remove(0);
    assert_ne!(before.ip, after.ip, "an address rests before it is given out again");
    connections(lab, client, &[&after], true).await;
    let (old, new) = (before.ip.to_string(), after.ip.to_string());
    lab.until("the name has one endpoint, and one address", async || {
        endpoints_at(lab, &old).await == Some(0)
            && endpoints_at(lab, &new).await == Some(1)
            && addresses_of(lab, "shop/db-0").await == Some(1)
    })
    .await;
}

/// A pod that takes its time to end keeps endpoint, address and policy until it has ended.
pub(crate) async fn long_in_ending(lab: &Lab, client: &Pod, stranger: &Pod) {
    let mut spec = objects::answering_on("n2");
    spec["terminationGracePeriodSeconds"] = json!(GRACE_SECONDS);
    let command = spec["containers"][0]["command"][2].as_str().unwrap().to_owned();
    // What ignores a signal hands that on to what it starts.
    let stubborn = command.replace("'exit 0' TERM", "'' TERM");
    assert_ne!(stubborn, command);
    spec["containers"][0]["command"][2] = json!(stubborn);
    let from = json!({"podSelector": {"matchLabels": {"app": client.name}}});
    lab.api.apply(&[
        objects::pod("shop", "slow", json!({"app": "slow"}), spec),
        objects::ingress("shop", "slow", "slow", json!([{"from": [from]}])),
    ]);
    let slow = ready(lab, "shop", "app=slow", 1).await.remove(0);
    connections(lab, client, &[&slow], true).await;
    connections(lab, stranger, &[&slow], false).await;

    lab.api.run(&["delete", "pod", "--namespace=shop", "slow", "--wait=false"]);
    let begun = Instant::now();
    let ip = slow.ip.to_string();
    while begun.elapsed() < WATCHED {
        let pod = lab.api.pod("shop", "slow").await;
        assert!(pod["metadata"]["deletionTimestamp"].is_string(), "it is ending: {pod:#}");
        assert_eq!(client.reaches(&[&slow]), [true], "after {:?}", begun.elapsed());
        assert_eq!(stranger.reaches(&[&slow]), [false], "after {:?}", begun.elapsed());
        assert_eq!(endpoints_at(lab, &ip).await, Some(1));
        assert_eq!(addresses_of(lab, "shop/slow").await, Some(1));
    }
    lab.until("it has ended, with endpoint and address", async || {
        endpoints_at(lab, &ip).await == Some(0) && addresses_of(lab, "shop/slow").await == Some(0)
    })
    .await;
}
