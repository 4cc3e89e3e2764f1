//! Endpoints that are pods, made and removed with kubectl.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::place::Place;
use super::plan::{CLOSED, End, OPEN, Role};
use crate::process::{self, Limits};

/// Time for a call of kubectl, and for pods to run.
const LIMITS: Limits = Limits { within: Duration::from_secs(60), bytes_max: 8 << 20 };
const READY_LIMITS: Limits = Limits { within: Duration::from_secs(190), bytes_max: 1 << 20 };
const READY: &str = "--timeout=180s";
/// The label of everything that a run makes; its value is the id of the run.
const LABEL: &str = "romana.io/connectivity-test";
/// Who runs in the pods: nobody's user, as Pod Security's `restricted` wants it.
const USER: u64 = 65_532;

/// What a run makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pods {
    pub(super) id: String,
    pub(super) namespace: String,
    /// Whether the namespace is this run's own.
    pub(super) own_namespace: bool,
    pub(super) image: String,
    /// The program `romana` in the image.
    pub(super) program: String,
    /// The nodes: one, or two for connections between hosts.
    pub(super) nodes: Vec<String>,
    /// A port for the pod in the node's own network, where ports are shared.
    pub(super) host_port: u16,
}

impl Pods {
    /// The pods: role, node, whether in the node's network.
    fn roles(&self) -> Vec<(Role, &str, bool)> {
        let first = self.nodes.first().map_or("", String::as_str);
        let mut roles = vec![
            (Role::Server, first, false),
            (Role::Client, first, false),
            (Role::Stranger, first, false),
            (Role::Host, first, true),
        ];
        roles.extend(self.nodes.get(1).map(|second| (Role::Peer, second.as_str(), false)));
        roles
    }

    fn name(role: Role) -> &'static str {
        match role {
            Role::Server => "server",
            Role::Peer => "server-elsewhere",
            Role::Client => "client",
            Role::Stranger => "stranger",
            Role::Host => "node",
        }
    }

    /// What is applied: the namespace if it is this run's own, the policy, the pods.
    pub(super) fn manifest(&self) -> Value {
        let mut items = Vec::new();
        if self.own_namespace {
            // The pod in the node's network needs it.
            let labels =
                json!({LABEL: self.id, "pod-security.kubernetes.io/enforce": "privileged"});
            let metadata = json!({"name": self.namespace, "labels": labels});
            items.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
        }
        items.push(self.policy());
        items.extend(self.roles().into_iter().map(|(role, node, host)| self.pod(role, node, host)));
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }

    fn metadata(&self, name: &str, role: &str) -> Value {
        json!({"name": format!("romana-connectivity-{name}"), "namespace": self.namespace,
            "labels": {LABEL: self.id, "romana.io/connectivity-role": role}})
    }

    /// Servers accept the client at the open port, and nothing else.
    fn policy(&self) -> Value {
        let with = |role: &str| json!({"matchLabels": {LABEL: self.id, "romana.io/connectivity-role": role}});
        let ports: Vec<Value> = ["TCP", "UDP"]
            .iter()
            .map(|protocol| json!({"protocol": protocol, "port": OPEN}))
            .collect();
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": self.metadata("servers", "policy"),
            "spec": {"podSelector": with("server"), "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": with("client")}], "ports": ports}]}})
    }

    fn pod(&self, role: Role, node: &str, host: bool) -> Value {
        let ports = if host { self.host_port.to_string() } else { format!("{OPEN},{CLOSED}") };
        let label = match role {
            Role::Server | Role::Peer => "server",
            other => Self::name(other),
        };
        let container = json!({
            "name": "test", "image": self.image, "imagePullPolicy": "IfNotPresent",
            "command": [self.program, "connectivity", "respond", "--ports", ports],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]}},
        });
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": self.metadata(Self::name(role), label),
        "spec": {
            "nodeName": node, "hostNetwork": host, "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "enableServiceLinks": false, "tolerations": [{"operator": "Exists"}],
            "securityContext": {"runAsNonRoot": true, "runAsUser": USER,
                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }})
    }

    fn kubectl(words: &[&str]) -> Vec<String> {
        ["kubectl"].iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    fn selector(&self) -> String {
        format!("--selector={LABEL}={}", self.id)
    }

    /// Makes everything, and waits until the pods run. Returns the ends, or why not.
    pub(super) async fn make(&self) -> Result<Vec<End>, String> {
        let argv = Self::kubectl(&["apply", "-f", "-"]);
        let manifest = self.manifest().to_string();
        process::run_with(&argv, None, manifest.as_bytes(), LIMITS).await?.ok(&argv)?;
        let (selector, namespace) = (self.selector(), format!("--namespace={}", self.namespace));
        let wait = ["wait", "pods", "--for=condition=Ready", READY, &selector, &namespace];
        let argv = Self::kubectl(&wait);
        let waited = process::run(&argv, READY_LIMITS).await.and_then(|ran| ran.ok(&argv));
        let argv = Self::kubectl(&["get", "pods", "--output=json", &selector, &namespace]);
        let pods: Value = serde_json::from_slice(&process::run(&argv, LIMITS).await?.ok(&argv)?)
            .map_err(|error| format!("kubectl's answer does not parse: {error}"))?;
        match waited {
            Ok(_) => Ok(self.ends(&pods)),
            Err(why) => {
                let reasons = unready(&pods);
                Err(if reasons.is_empty() { why } else { reasons.join("; ") })
            }
        }
    }

    /// Removes everything; waits until it is gone.
    pub(super) async fn remove(&self) -> Result<(), String> {
        let namespace = format!("--namespace={}", self.namespace);
        let usual = ["--ignore-not-found", "--timeout=55s"];
        let selector = self.selector();
        let what = match self.own_namespace {
            true => vec!["delete", "namespace", &*self.namespace],
            false => vec!["delete", "pods,networkpolicies", &*selector, &*namespace],
        };
        let argv = Self::kubectl(&[&what[..], &usual[..]].concat());
        process::run(&argv, LIMITS).await?.ok(&argv).map(drop)
    }

    /// The ends, from the pods that run.
    fn ends(&self, pods: &Value) -> Vec<End> {
        let list = pods["items"].as_array().cloned().unwrap_or_default();
        let end = |(role, node, host): (Role, &str, bool)| {
            let name = format!("romana-connectivity-{}", Self::name(role));
            let pod = list.iter().find(|pod| pod["metadata"]["name"] == *name)?;
            let (namespace, program) = (self.namespace.clone(), self.program.clone());
            Some(End {
                role,
                name: format!("{} on {node}", Self::name(role)),
                host: node.to_owned(),
                ips: ips(&pod["status"]),
                place: Place::Pod { namespace, name, program },
                port: if host { self.host_port } else { OPEN },
                strict: true,
            })
        };
        self.roles().into_iter().filter_map(end).collect()
    }
}

fn ips(status: &Value) -> Vec<IpAddr> {
    let all = status["podIPs"].as_array().cloned().unwrap_or_default();
    let all: Vec<IpAddr> = all.iter().filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
    match all.is_empty() {
        true => status["podIP"].as_str().and_then(|ip| ip.parse().ok()).into_iter().collect(),
        false => all,
    }
}

/// Why pods do not run, as Kubernetes says it.
fn unready(pods: &Value) -> Vec<String> {
    let list = pods["items"].as_array().cloned().unwrap_or_default();
    let why = |pod: &Value| {
        let (name, status) = (pod["metadata"]["name"].as_str()?, &pod["status"]);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True") {
            return None;
        }
        let state = &status["containerStatuses"][0]["state"];
        let told = [&state["waiting"], &state["terminated"], status];
        let told =
            told.iter().find(|part| part["reason"].is_string() || part["message"].is_string());
        let text = |key: &str| told.and_then(|part| part[key].as_str()).unwrap_or_default();
        let phase = status["phase"].as_str().unwrap_or("unknown");
        let words = [phase, text("reason"), text("message")].map(str::trim);
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        Some(format!("{name}: {}", words.join(", ")))
    };
    list.iter().filter_map(why).collect()
}

/// Nodes that pods can run on, those of workers first. `nodes`: what `kubectl get nodes --output=json` prints.
pub(super) fn usable(nodes: &Value) -> Vec<String> {
    let list = nodes["items"].as_array().cloned().unwrap_or_default();
    let ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        ready && node["spec"]["unschedulable"] != true
    };
    let is_control = |node: &Value| {
        let labels = node["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.keys().any(|key| key.starts_with("node-role.kubernetes.io/control-plane"))
    };
    let mut nodes: Vec<(bool, String)> = list
        .iter()
        .filter(ready)
        .filter_map(|node| Some((is_control(node), node["metadata"]["name"].as_str()?.to_owned())))
        .collect();
    nodes.sort();
    nodes.into_iter().map(|(_, name)| name).collect()
}

/// What `kubectl get nodes` says.
pub(super) async fn nodes() -> Result<Vec<String>, String> {
    let argv = Pods::kubectl(&["get", "nodes", "--output=json", "--request-timeout=20s"]);
    let text = process::run(&argv, LIMITS).await?.ok(&argv)?;
    let nodes = serde_json::from_slice(&text);
    Ok(usable(&nodes.map_err(|error| format!("kubectl's answer does not parse: {error}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(nodes: &[&str]) -> Pods {
        Pods {
            id: "abc123".into(),
            namespace: "romana-connectivity-abc123".into(),
            own_namespace: true,
            image: "localhost/romana:0.1.0".into(),
            program: "/opt/romana/romana".into(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            host_port: 24_000,
        }
    }

    fn names(manifest: &Value) -> Vec<String> {
        let items = manifest["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| {
                let node = item["spec"]["nodeName"].as_str().unwrap_or("-");
                let (kind, name) = (&item["kind"], &item["metadata"]["name"]);
                format!("{} {} {node}", kind.as_str().unwrap(), name.as_str().unwrap())
            })
            .collect()
    }

    #[test]
    fn everything_is_labelled_and_in_its_place() {
        let made = pods(&["n1", "n2"]);
        let manifest = made.manifest();
        assert_eq!(
            names(&manifest),
            [
                "Namespace romana-connectivity-abc123 -",
                "NetworkPolicy romana-connectivity-servers -",
                "Pod romana-connectivity-server n1",
                "Pod romana-connectivity-client n1",
                "Pod romana-connectivity-stranger n1",
                "Pod romana-connectivity-node n1",
                "Pod romana-connectivity-server-elsewhere n2",
            ]
        );
        let items = manifest["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["metadata"]["labels"][LABEL] == "abc123"));
        assert_eq!(items[5]["spec"]["hostNetwork"], true);
        let command = &items[5]["spec"]["containers"][0]["command"];
        assert_eq!(command[4], "24000", "{command}");
        let alone = Pods { own_namespace: false, ..pods(&["n1"]) };
        assert_eq!(names(&alone.manifest()).len(), 5);
    }

    #[test]
    fn nodes_that_cannot_run_pods_are_left_out() {
        let node = |name: &str, ready: &str, off: bool, control: bool| {
            let key = if control { "node-role.kubernetes.io/control-plane" } else { "x" };
            json!({"metadata": {"name": name, "labels": {key: ""}}, "spec": {"unschedulable": off},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        let nodes = json!({"items": [node("c1", "True", false, true), node("w2", "True", false, false),
            node("w1", "True", false, false), node("w3", "False", false, false), node("w4", "True", true, false)]});
        assert_eq!(usable(&nodes), ["w1", "w2", "c1"]);
        assert_eq!(usable(&Value::Null), Vec::<String>::new());
    }

    #[test]
    fn pods_that_run_become_ends_and_others_say_why() {
        let pod = |name: &str, status: Value| json!({"metadata": {"name": format!("romana-connectivity-{name}")}, "status": status});
        let running = json!({"podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True"}]});
        let waiting = json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting":
            {"reason": "ErrImageNeverPull", "message": "no such image"}}}]});
        let list = json!({"items": [pod("server", running), pod("client", waiting)]});
        let ends = pods(&["n1"]).ends(&list);
        assert_eq!(
            (ends[0].role, ends[0].ips.len(), &*ends[0].name),
            (Role::Server, 2, "server on n1")
        );
        assert_eq!(
            unready(&list),
            ["romana-connectivity-client: Pending, ErrImageNeverPull, no such image"]
        );
    }
}
