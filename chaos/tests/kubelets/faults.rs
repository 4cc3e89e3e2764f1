//! Programs are killed in the middle of work, and the API server is away for a while.

use std::fs;

use serde_json::json;

use crate::lab::Lab;
use crate::pods::Pod;
use crate::{all_reach_each_other, connections, objects, ready};

/// kill -9 of a program on a node, by its name. Only processes of that machine are looked at.
pub(crate) fn kill(lab: &Lab, node: &str, program: &str) {
    lab.node(node).machine.run("pkill", &["-KILL", "--exact", program]);
}

/// The node of the replica.
async fn replica_node(lab: &Lab) -> String {
    let pod = lab.api.pod("kube-system", "romanad-0").await;
    pod["spec"]["nodeName"].as_str().expect("it runs").to_owned()
}

/// Starts more pods, kills something while they start, and looks at the result.
async fn scale_through(lab: &Lab, count: usize, kill: impl AsyncFnOnce()) -> Vec<Pod> {
    let replicas = format!("--replicas={count}");
    lab.api.run(&["scale", "--namespace=shop", "deployment/web", &replicas]);
    lab.until("some of the new pods have addresses", async || {
        let pods = lab.api.pods("shop", "app=web").await;
        pods.iter().filter(|pod| pod["status"]["podIP"].is_string()).count() > count - 8
    })
    .await;
    kill().await;
    let pods = ready(lab, "shop", "app=web", count).await;
    all_reach_each_other(lab, &pods).await;
    pods
}

/// One after the other, while pods start.
pub(crate) async fn in_the_middle(lab: &mut Lab) {
    let replica = replica_node(lab).await;
    scale_through(lab, 10, async || kill(lab, &replica, "romanad")).await;
    scale_through(lab, 20, async || kill(lab, "n1", "romana-agent")).await;
    scale_through(lab, 30, async || {
        kill(lab, "n1", "romana-agent");
        kill(lab, "n2", "romana-agent");
        kill(lab, &replica, "romanad");
    })
    .await;
    lab.api.run(&["scale", "--namespace=shop", "deployment/web", "--replicas=40"]);
    lab.control.kill_api_server();
    lab.control.start_api_server();
    let pods = ready(lab, "shop", "app=web", 40).await;
    all_reach_each_other(lab, &pods).await;
}

/// Without the API server, what is there goes on, agents restart, and a node attaches pods that it knows of itself.
pub(crate) async fn without_the_api_server(lab: &mut Lab, pods: &[Pod]) {
    lab.control.kill_api_server();
    all_reach_each_other(lab, pods).await;
    kill(lab, "n1", "romana-agent");
    lab.until("the agent is back", async || agent_is_ready(lab, "n1")).await;
    all_reach_each_other(lab, pods).await;

    let mut own = objects::pod("shop", "own", json!({"app": "own"}), objects::answering());
    own["spec"]["hostname"] = json!("own-n1");
    let manifests = lab.node("n1").machine.dir.join("manifests");
    fs::write(manifests.join("own.json"), own.to_string()).expect("write a manifest");
    lab.until("the node has attached a pod of its own", async || {
        attachments(lab, "n1") > pods.iter().filter(|pod| pod.node == "n1").count()
    })
    .await;

    lab.control.start_api_server();
    let own = ready(lab, "shop", "app=own", 1).await.remove(0);
    connections(lab, &pods[0], &[&own], true).await;
    all_reach_each_other(lab, pods).await;
    fs::remove_file(manifests.join("own.json")).expect("remove a manifest");
    lab.until("the pod is gone", async || {
        lab.api.is_gone("/api/v1/namespaces/shop/pods/own-n1").await
    })
    .await;
}

fn attachments(lab: &Lab, node: &str) -> usize {
    let dir = lab.node(node).machine.path("/var/lib/romana/attachments");
    fs::read_dir(dir).into_iter().flatten().count()
}

/// Whether the agent of a node says that kernel and knowledge agree.
fn agent_is_ready(lab: &Lab, node: &str) -> bool {
    let url = format!("http://{}:9607/readyz", lab.node(node).address);
    let asked = std::process::Command::new("curl").args(["-sf", "-m", "2", &url]).output();
    asked.expect("start curl").status.success()
}
