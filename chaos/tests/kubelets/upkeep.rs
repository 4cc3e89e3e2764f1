//! Nodes that are removed, drained and rebooted, by the steps of deploy/README.md.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kernel::Traces;
use crate::lab::Lab;
use crate::pods::Pod;
use crate::{SLOW, all_reach_each_other, is_ready, ready, replicas};

/// Replicas of the Deployment `web`.
async fn wanted(lab: &Lab) -> usize {
    let web = lab.api.get("/apis/apps/v1/namespaces/shop/deployments/web").await;
    let count = web["spec"]["replicas"].as_u64().expect("replicas");
    usize::try_from(count).expect("a few")
}

/// All pods of `web`, when they are ready and have their addresses.
async fn web(lab: &Lab) -> Vec<Pod> {
    let count = wanted(lab).await;
    ready(lab, "shop", "app=web", count).await
}

async fn host(lab: &Lab, name: &str) -> Option<Value> {
    let hosts = lab.romana_list("/v1/hosts").await?;
    hosts.into_iter().find(|host| host["name"] == name)
}

async fn state_is(lab: &Lab, name: &str, state: &str) -> bool {
    host(lab, name).await.is_some_and(|host| host["state"] == state)
}

/// What of a list of Romana belongs to a host. `None`: no replica answers.
async fn of_host(lab: &Lab, list: &str, name: &str) -> Option<Vec<Value>> {
    let all = lab.romana_list(&format!("/v1/{list}?limit=1000")).await?;
    Some(all.into_iter().filter(|item| item["host"] == name).collect())
}

/// The routes of a node through another one.
fn routes_through(lab: &Lab, node: &str, other: &str) -> String {
    lab.node(node).machine.run("ip", &["route", "show", "proto", "57", "via", other])
}

/// A node breaks for good, and its Node is deleted: its host leaves the log, and what it had is free.
pub(crate) async fn removed(lab: &mut Lab, name: &str) {
    let address = lab.node(name).address.clone();
    let blocks = of_host(lab, "blocks", name).await.expect("blocks");
    assert!(!blocks.is_empty(), "{name} has no block that could come back");
    assert!(!routes_through(lab, "n1", &address).is_empty(), "there are routes to {name}");
    lab.power_off(name).await;
    lab.nodes.retain(|node| node.machine.name != name);
    lab.api.run(&["delete", "node", name]);
    // Kubernetes deletes the pods of a Node that is gone a minute later; until then they might run.
    lab.until_within(SLOW, "the host has left the log, with all that it had", async || {
        let mut left = lab
            .romana_list("/v1/hosts")
            .await
            .map(|hosts| hosts.iter().filter(|host| host["name"] == name).count());
        for list in ["blocks", "addresses", "endpoints"] {
            let items = of_host(lab, list, name).await;
            left = left.zip(items).map(|(left, items)| left + items.len());
        }
        left == Some(0)
    })
    .await;
    for node in &lab.nodes {
        let node = &node.machine.name;
        lab.until(&format!("{node} has no route to it"), async || {
            routes_through(lab, node, &address).is_empty()
        })
        .await;
    }
    let pods = web(lab).await;
    all_reach_each_other(lab, &pods).await;
}

/// `kubectl drain` and `uncordon`.
pub(crate) async fn drained(lab: &Lab, name: &str) {
    let members = replicas::are(lab, &[0, 1, 2]).await;
    let options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s"];
    lab.api.run(&[&["drain", name][..], &options].concat());
    lab.until("its host is being drained", async || state_is(lab, name, "draining").await).await;
    lab.until("no pod is in its kernel", async || Traces::of(lab.node(name)).has_no_pods()).await;
    // Those that were evicted run elsewhere; the two other replicas give them addresses.
    let pods = web(lab).await;
    assert!(pods.iter().all(|pod| pod.node != name), "{pods:?}");
    all_reach_each_other(lab, &pods).await;

    lab.api.run(&["uncordon", name]);
    lab.until("its host is in service", async || state_is(lab, name, "up").await).await;
    let back = replicas::are(lab, &[0, 1, 2]).await;
    let id = |member: &Value| (member["peer"].to_string(), member["id"].to_string());
    let [before, after] = [members, back].map(|all| all.iter().map(id).collect::<BTreeMap<_, _>>());
    assert_eq!(after, before, "its replica has its data and its id");
    let more = format!("--replicas={}", wanted(lab).await + 3);
    lab.api.run(&["scale", "--namespace=shop", "deployment/web", &more]);
    let pods = web(lab).await;
    assert!(pods.iter().any(|pod| pod.node == name), "no pod comes to {name}: {pods:?}");
    all_reach_each_other(lab, &pods).await;
}

/// The container of each pod on a node, by the pod's name.
async fn containers(lab: &Lab, name: &str) -> BTreeMap<String, Value> {
    let pods = lab.api.pods("shop", "app=web").await;
    let here = pods.into_iter().filter(|pod| pod["spec"]["nodeName"] == name && is_ready(pod));
    let container = |pod: Value| {
        let id = pod["status"]["containerStatuses"][0]["containerID"].clone();
        (pod["metadata"]["name"].as_str().expect("a name").to_owned(), id)
    };
    here.map(container).collect()
}

/// The power of a node goes, and comes back.
pub(crate) async fn rebooted(lab: &mut Lab, name: &str) {
    let members = replicas::are(lab, &[0, 1, 2]).await;
    let before = containers(lab, name).await;
    assert!(!before.is_empty(), "{name} has no pod");
    lab.power_off(name).await;
    lab.power_on(name).await;
    lab.until_within(SLOW, "its pods run again, in new containers", async || {
        let now = containers(lab, name).await;
        now.len() == before.len()
            && before.iter().all(|(pod, id)| now.get(pod).is_some_and(|new| new != id))
    })
    .await;
    let pods = web(lab).await;
    all_reach_each_other(lab, &pods).await;
    let here = pods.iter().filter(|pod| pod.node == name).count();
    lab.until("links, routes and files are those of its pods", async || {
        Traces::of(lab.node(name)).pods() == Some(here)
    })
    .await;
    let ips: Vec<Value> = pods.iter().map(|pod| json!(pod.ip)).collect();
    lab.until("the log has the addresses of the pods, and no others", async || {
        let known = lab.romana_list("/v1/addresses?limit=1000").await.unwrap_or_default();
        let of_shop = |address: &&Value| {
            let name = address["name"].as_str().unwrap_or_default();
            name.starts_with("cni:shop.")
        };
        let known: Vec<&Value> =
            known.iter().filter(of_shop).map(|address| &address["ip"]).collect();
        known.len() == ips.len() && ips.iter().all(|ip| known.contains(&ip))
    })
    .await;
    let back = replicas::are(lab, &[0, 1, 2]).await;
    assert_eq!(replicas::ids(&back), replicas::ids(&members), "its replica has its id");
}
