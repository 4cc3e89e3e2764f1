//! Kubernetes objects of the tests.

use serde_json::{Value, json};

use crate::pods::PORT;

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// What a pod runs that answers with its name, and stops at once when it is told to.
fn server() -> Value {
    let script =
        format!("trap 'exit 0' TERM; hostname >/index.html; httpd -f -p {PORT} -h / & wait");
    json!({
        "name": "server",
        "image": "localhost/busybox:1",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "ports": [{"name": "http", "containerPort": PORT}],
        // The kubelet's packets come from the node.
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 2},
    })
}

/// The specification of a pod that answers.
pub(crate) fn answering() -> Value {
    json!({
        "containers": [server()],
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 5,
    })
}

/// The same on a node.
pub(crate) fn answering_on(node: &str) -> Value {
    let mut spec = answering();
    spec["nodeName"] = json!(node);
    spec
}

/// A pod with a specification.
pub(crate) fn pod(namespace: &str, name: &str, labels: Value, spec: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": spec,
    })
}

/// A workload of pods with the label `app`.
pub(crate) fn workload(
    kind: &str,
    namespace: &str,
    name: &str,
    replicas: usize,
    spec: Value,
) -> Value {
    let labels = json!({"app": name});
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    });
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = json!(name);
    }
    object
}

/// A policy for the pods with a label `app`, with rules for what comes in.
pub(crate) fn ingress(namespace: &str, name: &str, app: &str, rules: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    })
}
