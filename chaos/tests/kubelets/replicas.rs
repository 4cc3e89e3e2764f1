//! The replicas as a StatefulSet: one is killed, one loses its volume, and three become five and three again, by the steps
//! of deploy/README.md.

use serde_json::{Value, json};

use crate::lab::Lab;
use crate::pods::Pod;
use crate::{SLOW, all_reach_each_other, faults, objects, ready};

/// Address of a replica for the others: that of its Service.
fn peer(ordinal: usize) -> String {
    format!("10.96.0.{}:9601", 100 + ordinal)
}

fn pod_name(ordinal: usize) -> String {
    format!("romanad-{ordinal}")
}

/// The members, once there is a leader and all of them are healthy.
async fn healthy(lab: &Lab) -> Option<Vec<Value>> {
    let mut cluster = lab.romana("/v1/cluster").await;
    let members = match cluster["members"].take() {
        Value::Array(members) if cluster["leader"].is_u64() => members,
        _ => return None,
    };
    let votes = |member: &Value| member["role"] == "leader" || member["role"] == "follower";
    let well = members.iter().all(|member| member["healthy"] == true && votes(member));
    well.then_some(members)
}

/// Waits until these replicas, and no others, are members, vote, and are healthy; their pods are ready.
pub(crate) async fn are(lab: &Lab, ordinals: &[usize]) -> Vec<Value> {
    let mut members = Vec::new();
    let what = format!("replicas {ordinals:?} are the members");
    let wanted: Vec<String> = ordinals.iter().map(|ordinal| peer(*ordinal)).collect();
    lab.until_within(SLOW, &what, async || {
        members = healthy(lab).await.unwrap_or_default();
        members.len() == wanted.len()
            && wanted.iter().all(|peer| members.iter().any(|member| member["peer"] == **peer))
    })
    .await;
    pods_are_ready(lab, ordinals).await;
    members
}

/// Waits until the pods of these replicas are ready.
async fn pods_are_ready(lab: &Lab, ordinals: &[usize]) {
    lab.until_within(SLOW, "the replicas' pods are ready", async || {
        for ordinal in ordinals {
            let pod = lab.api.pod("kube-system", &pod_name(*ordinal)).await;
            if !crate::is_ready(&pod) {
                return false;
            }
        }
        true
    })
    .await;
}

/// The member that a replica is.
fn member(members: &[Value], ordinal: usize) -> &Value {
    let found = members.iter().find(|member| member["peer"] == *peer(ordinal));
    found.unwrap_or_else(|| panic!("replica {ordinal} is no member: {members:#?}"))
}

/// Their ids, in order.
pub(crate) fn ids(members: &[Value]) -> Vec<u64> {
    members.iter().filter_map(|member| member["id"].as_u64()).collect()
}

/// The replica that leads, or another one.
async fn ordinal(lab: &Lab, leads: bool) -> usize {
    let cluster = lab.romana("/v1/cluster").await;
    let members = cluster["members"].as_array().expect("members");
    let found = (0..members.len())
        .find(|ordinal| (member(members, *ordinal)["id"] == cluster["leader"]) == leads);
    found.expect("a replica")
}

/// The node on which a replica runs.
pub(crate) async fn node_of(lab: &Lab, ordinal: usize) -> String {
    let pod = lab.api.pod("kube-system", &pod_name(ordinal)).await;
    pod["spec"]["nodeName"].as_str().expect("it runs").to_owned()
}

async fn restarts(lab: &Lab, ordinal: usize) -> u64 {
    let pod = lab.api.pod("kube-system", &pod_name(ordinal)).await;
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().expect("it has run")
}

/// Each on a node of its own, of those that are labelled for them.
pub(crate) async fn are_spread(lab: &Lab, ordinals: &[usize]) {
    let mut nodes = Vec::new();
    for ordinal in ordinals {
        nodes.push(node_of(lab, *ordinal).await);
    }
    nodes.sort();
    let wanted: Vec<String> = (1..=ordinals.len()).map(|number| format!("n{number}")).collect();
    assert_eq!(nodes, wanted);
}

/// A pod that is made now gets an address, and is reached by another one.
pub(crate) async fn serve_new_pods(lab: &Lab, from: &Pod, name: &str) {
    let pod = objects::pod("shop", name, json!({"app": name}), objects::answering());
    lab.api.apply(&[pod]);
    let pod = ready(lab, "shop", &format!("app={name}"), 1).await.remove(0);
    crate::connections(lab, from, &[&pod], true).await;
}

/// kill -9 of the leader, and of another one: the kubelet starts each again, with its data and under its id.
pub(crate) async fn are_killed(lab: &Lab, pods: &[Pod]) {
    for (leads, name) in [(true, "after-leader"), (false, "after-follower")] {
        let before = ids(&are(lab, &[0, 1, 2]).await);
        let victim = ordinal(lab, leads).await;
        let (node, starts) = (node_of(lab, victim).await, restarts(lab, victim).await);
        faults::kill(lab, &node, "romanad");
        serve_new_pods(lab, &pods[0], name).await;
        lab.until("its container has started again", async || restarts(lab, victim).await > starts)
            .await;
        assert_eq!(ids(&are(lab, &[0, 1, 2]).await), before, "nobody lost its place");
    }
    all_reach_each_other(lab, pods).await;
}

/// A replica's volume is lost: it becomes a new member in its old place, with what the others know.
pub(crate) async fn lose_a_volume(lab: &Lab, pods: &[Pod]) {
    let before = ids(&are(lab, &[0, 1, 2]).await);
    let victim = ordinal(lab, false).await;
    let node = node_of(lab, victim).await;
    let data = format!("/var/lib/romanad/{}", pod_name(victim));
    // It writes there until it is killed.
    let machine = &lab.node(&node).machine;
    machine.run("mv", &[&data, "/var/lib/romanad/lost"]);
    faults::kill(lab, &node, "romanad");
    lab.until_within(SLOW, "a new member is in its place", async || {
        let members = healthy(lab).await.unwrap_or_default();
        let new: Vec<u64> = ids(&members).into_iter().filter(|id| !before.contains(id)).collect();
        members.len() == 3 && new.len() == 1 && member(&members, victim)["id"] == new[0]
    })
    .await;
    machine.run("rm", &["-r", "/var/lib/romanad/lost"]);
    are(lab, &[0, 1, 2]).await;
    serve_new_pods(lab, &pods[0], "after-volume").await;
}

fn scale(lab: &Lab, replicas: usize) {
    let replicas = format!("--replicas={replicas}");
    lab.api.run(&["scale", "--namespace=kube-system", "statefulset", "romanad", &replicas]);
}

/// "Three to five replicas" in deploy/README.md.
pub(crate) async fn become_five_and_three(lab: &Lab, pods: &[Pod]) {
    for (ordinal, ordinals) in [(3, &[0, 1, 2, 3][..]), (4, &[0, 1, 2, 3, 4][..])] {
        lab.exec(&["cluster", "add", &peer(ordinal)]);
        scale(lab, ordinals.len());
        are(lab, ordinals).await;
    }
    are_spread(lab, &[0, 1, 2, 3, 4]).await;
    serve_new_pods(lab, &pods[0], "with-five").await;
    // Two of five may be lost.
    for ordinal in [1, 4] {
        faults::kill(lab, &node_of(lab, ordinal).await, "romanad");
    }
    serve_new_pods(lab, &pods[0], "with-three-of-five").await;

    let members = are(lab, &[0, 1, 2, 3, 4]).await;
    let nodes = [node_of(lab, 3).await, node_of(lab, 4).await];
    for ordinal in [4, 3] {
        lab.exec(&["cluster", "remove", &member(&members, ordinal)["id"].to_string()]);
    }
    scale(lab, 3);
    lab.until_within(SLOW, "the pods are gone", async || {
        let mut gone = true;
        for ordinal in [3, 4] {
            let path = format!("/api/v1/namespaces/kube-system/pods/{}", pod_name(ordinal));
            gone &= lab.api.is_gone(&path).await;
        }
        gone
    })
    .await;
    for (node, ordinal) in nodes.iter().zip([3, 4]) {
        let data = format!("/var/lib/romanad/{}", pod_name(ordinal));
        lab.node(node).machine.run("rm", &["-r", &data]);
    }
    are(lab, &[0, 1, 2]).await;
    serve_new_pods(lab, &pods[0], "with-three").await;
    all_reach_each_other(lab, pods).await;
}
