//! NetworkPolicies by `kubectl apply`: packets obey them, and edits take effect.

use serde_json::{Value, json};

use crate::lab::Lab;
use crate::pods::Pod;
use crate::{connections, objects, ready};

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";

/// Who asks the servers.
pub(crate) struct Clients {
    /// In the servers' namespace, with `role: client`.
    pub(crate) friend: Pod,
    /// In the same namespace without that label, on the other node.
    pub(crate) stranger: Pod,
    /// In the namespace `market`.
    neighbour: Pod,
}

impl Clients {
    async fn start(lab: &Lab) -> Self {
        let labels = |app: &str, role: &str| json!({"app": app, "role": role});
        let (on_n1, on_n2) = (objects::answering_on("n1"), objects::answering_on("n2"));
        lab.api.apply(&[
            objects::namespace("market"),
            objects::pod("shop", "friend", labels("friend", "client"), on_n1),
            objects::pod("shop", "stranger", labels("stranger", "other"), on_n2.clone()),
            objects::pod("market", "neighbour", labels("neighbour", "client"), on_n2),
        ]);
        let one = async |namespace: &str, name: &str| {
            ready(lab, namespace, &format!("app={name}"), 1).await.remove(0)
        };
        Self {
            friend: one("shop", "friend").await,
            stranger: one("shop", "stranger").await,
            neighbour: one("market", "neighbour").await,
        }
    }

    /// Waits until exactly these reach the servers, and those.
    async fn reach(&self, lab: &Lab, servers: &[&Pod], expected: [bool; 3]) {
        let clients = [&self.friend, &self.stranger, &self.neighbour];
        for (client, expected) in clients.into_iter().zip(expected) {
            connections(lab, client, servers, expected).await;
        }
    }
}

/// Policies for the pods with the label `app: web`.
pub(crate) async fn are_enforced(lab: &Lab, web: &[Pod]) -> Clients {
    let clients = Clients::start(lab).await;
    let servers: Vec<&Pod> = web.iter().collect();
    clients.reach(lab, &servers, [true, true, true]).await;
    let since = became_ready(lab).await;

    let policy = |rules: Value| lab.api.apply(&[objects::ingress("shop", "web", "web", rules)]);
    policy(json!([]));
    clients.reach(lab, &servers, [false, false, false]).await;
    connections(lab, &web[0], &servers[1..], false).await;

    let from_clients = json!({"podSelector": {"matchLabels": {"role": "client"}}});
    policy(json!([{"from": [from_clients], "ports": [{"port": "http"}]}]));
    clients.reach(lab, &servers, [true, false, false]).await;

    let from_market = json!({"namespaceSelector": {"matchLabels": {"team": "blue"}}});
    policy(json!([{"from": [from_market]}]));
    clients.reach(lab, &servers, [false, false, false]).await;
    lab.api.run(&["label", "namespace", "market", "team=blue"]);
    clients.reach(lab, &servers, [false, false, true]).await;

    // A pod that comes while the policy stands is behind it from its first packet on.
    lab.api.run(&["scale", "--namespace=shop", "deployment/web", "--replicas=31"]);
    let more = ready(lab, "shop", "app=web", 31).await;
    let all: Vec<&Pod> = more.iter().collect();
    assert!(!clients.stranger.reaches(&all).contains(&true), "the policy is older than the pod");
    clients.reach(lab, &all, [false, false, true]).await;

    let kept = became_ready(lab).await;
    let lost: Vec<_> = since.iter().filter(|one| !kept.contains(one)).collect();
    assert!(lost.is_empty(), "policies keep the kubelet from these pods: {lost:?}\n{kept:?}");
    lab.api.delete(&format!("{POLICIES}/web")).await;
    clients.reach(lab, &all, [true, true, true]).await;
    egress(lab, &clients, &all).await;
    clients
}

/// What goes out is filtered as well.
async fn egress(lab: &Lab, clients: &Clients, servers: &[&Pod]) {
    let stranger = json!({"podSelector": {"matchLabels": {"app": "stranger"}}});
    lab.api.apply(&[json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "out", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "friend"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [stranger]}],
        },
    })]);
    clients.reach(lab, servers, [false, true, true]).await;
    connections(lab, &clients.friend, &[&clients.stranger], true).await;
    lab.api.delete(&format!("{POLICIES}/out")).await;
    clients.reach(lab, servers, [true, true, true]).await;
}

/// Name of each server, and since when it is ready.
async fn became_ready(lab: &Lab) -> Vec<(Value, Value)> {
    let pods = lab.api.pods("shop", "app=web").await;
    let since = |pod: Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|one| one["type"] == "Ready").unwrap_or_default();
        let is_ready = ready["status"] == "True";
        is_ready.then(|| (pod["metadata"]["name"].clone(), ready["lastTransitionTime"].clone()))
    };
    pods.into_iter().filter_map(since).collect()
}
