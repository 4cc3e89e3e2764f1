//! What an API server lets a replica do.

use serde_json::{Value, json};

/// A role for what romanad needs and its binding to the user `romanad`, with the paths where they are created. The rules
/// are those of `deploy/kubernetes`.
#[must_use]
pub fn romanad_grants() -> [(&'static str, Value); 2] {
    let watch = json!(["get", "list", "watch"]);
    let rules = json!([
        {"apiGroups": [""], "verbs": watch,
         "resources": ["nodes", "namespaces", "pods", "services", "endpoints"]},
        {"apiGroups": ["networking.k8s.io"], "verbs": watch, "resources": ["networkpolicies"]},
        {"apiGroups": ["discovery.k8s.io"], "verbs": watch, "resources": ["endpointslices"]},
        {"apiGroups": ["events.k8s.io"], "verbs": ["create", "patch"], "resources": ["events"]},
        {"apiGroups": [""], "verbs": ["patch"], "resources": ["services", "services/status"]},
    ]);
    let group = "rbac.authorization.k8s.io";
    let role = json!({"metadata": {"name": "romanad"}, "rules": rules});
    let binding = json!({
        "metadata": {"name": "romanad"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "romanad"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "romanad"}],
    });
    [
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", role),
        ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding),
    ]
}
