//! Random changes of objects through the API. Few names, so that what is deleted comes back as another object of the
//! same name, and most changes meet an object that is there.
//!
//! Some objects stay: a list that lacks most Nodes, or all objects of a kind, would be held back until an operator
//! confirms it (`romana kubernetes confirm`), and rightly so. Pods are on Nodes that stay: a host is kept as long as
//! pods are on it.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::own;
use crate::cluster::Objects;

/// Names of Nodes, and so of hosts, begin with it.
pub const NODE_PREFIX: &str = "k-node-";
/// Nodes, and those of them that stay.
const NODES: (u8, u8) = (6, 4);
/// Namespaces, those that stay first. The last one that stays has the name of an operator's tenant.
const NAMESPACES: [&str; 5] = ["k0", "k1", own::TENANT, "k2", "k3"];
const NAMESPACES_THAT_STAY: usize = 3;
/// Pods, policies and Services in a namespace. Number 0 of the first namespace stays.
const PODS: u8 = 6;
const POLICIES: u8 = 3;
const SERVICES: u8 = 3;
const RACKS: u8 = 4;

pub(super) const NODES_PATH: &str = "/api/v1/nodes";
pub(super) const NAMESPACES_PATH: &str = "/api/v1/namespaces";

/// What was asked of the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that succeeded.
    pub done: u64,
    /// Requests that were refused (no such object, or one too many), or whose outcome is unknown.
    pub others: u64,
}

/// Changes objects, one after the other.
#[derive(Debug)]
pub(super) struct Hand {
    objects: Objects,
    rng: SmallRng,
    /// Whether the server has EndpointSlices; else the replicas follow Endpoints.
    slices: bool,
    count: Count,
}

impl Hand {
    pub(super) async fn new(objects: Objects, seed: u64) -> Result<Self> {
        let groups = objects.call("GET", "/apis/discovery.k8s.io", &Value::Null).await?;
        let versions = groups["versions"].as_array();
        let slices = versions.is_some_and(|all| all.iter().any(|one| one["version"] == "v1"));
        let rng = SmallRng::seed_from_u64(seed ^ 0x6b75_6265);
        Ok(Self { objects, rng, slices, count: Count::default() })
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) fn has_slices(&self) -> bool {
        self.slices
    }

    pub(super) fn count(&self) -> Count {
        self.count
    }

    pub(super) fn pause(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.random())
    }

    /// The objects that stay, and those that ask for what an operator has.
    pub(super) async fn create_what_stays(&mut self) -> Result<()> {
        for number in 0..NODES.1 {
            self.objects.call("POST", NODES_PATH, &self.node_object(number)).await?;
        }
        self.objects.call("POST", NODES_PATH, &own::node()).await?;
        for name in &NAMESPACES[..NAMESPACES_THAT_STAY] {
            let namespace = json!({"metadata": {"name": name}});
            self.objects.call("POST", NAMESPACES_PATH, &namespace).await?;
        }
        for (path, object) in own::objects() {
            self.objects.call("POST", &path, &object).await?;
        }
        // The operator's name is the only reason to refuse it.
        let backend = backend("own", &format!("{NODE_PREFIX}0"), "10.200.0.1", self.slices);
        self.objects.call("POST", &self.backends(0), &backend).await?;
        self.make_pod(0, 0).await;
        self.set_policy(0, 0).await;
        self.set_service(0, 0).await;
        // The pod and its status, the policy, the Service and what is behind it.
        ensure!(self.count.done == 5, "the API server refuses the first objects");
        self.count = Count::default();
        Ok(())
    }

    /// One change; a few requests.
    pub(super) async fn change(&mut self) {
        match self.rng.random_range(0..100_u8) {
            0..40 => self.change_pod().await,
            40..58 => self.change_policy().await,
            58..78 => self.change_service().await,
            78..86 => self.change_namespace().await,
            _ => self.change_node().await,
        }
    }

    /// Sends a request; whatever becomes of it is right.
    async fn ask(&mut self, method: &str, path: &str, body: &Value) -> Option<Value> {
        let answer = self.objects.call(method, path, body).await;
        if let Err(error) = &answer {
            tracing::trace!(error = format!("{error:#}"), "a change of an object");
        }
        let count = if answer.is_ok() { &mut self.count.done } else { &mut self.count.others };
        *count += 1;
        answer.ok()
    }

    /// Changes an object, or creates it.
    async fn put(&mut self, list: &str, name: &str, object: &Value) {
        if self.ask("PATCH", &format!("{list}/{name}"), object).await.is_none() {
            self.ask("POST", list, object).await;
        }
    }

    async fn delete(&mut self, path: &str) {
        // At once, as a kubelet that has stopped a pod does.
        self.ask("DELETE", path, &json!({"gracePeriodSeconds": 0})).await;
    }

    async fn change_pod(&mut self) {
        let (namespace, number) = (self.namespace(), self.rng.random_range(0..PODS));
        let path = format!("{}/p{number}", pods(namespace));
        match self.rng.random_range(0..10_u8) {
            0..5 => self.make_pod(namespace, number).await,
            5..7 => {
                let change = json!({"metadata": {"labels": self.pod_labels()}});
                self.ask("PATCH", &path, &change).await;
            }
            _ if stays(namespace, number) => {}
            7 => {
                let ended = json!({"status": {"phase": "Succeeded"}});
                self.ask("PATCH", &format!("{path}/status"), &ended).await;
            }
            _ => self.delete(&path).await,
        }
    }

    fn pod_labels(&mut self) -> Value {
        let app = ["web", "db"][self.rng.random_range(0..2)];
        let segment = [Value::Null, json!("front")][self.rng.random_range(0..2)].clone();
        json!({"app": app, "romana.io/segment": segment})
    }

    /// Creates a pod, then gives it an address, as a scheduler and a kubelet do.
    async fn make_pod(&mut self, namespace: usize, number: u8) {
        let mut labels = self.pod_labels();
        if labels["romana.io/segment"].is_null() {
            labels = json!({"app": labels["app"]});
        }
        let (name, node) = (format!("p{number}"), self.staying_node());
        let pod = json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        });
        if self.ask("POST", &pods(namespace), &pod).await.is_none() {
            return;
        }
        // One of two: a pod that comes back may have another address.
        let ip = format!("10.200.{namespace}.{}", number * 2 + self.rng.random_range(1..=2));
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]});
        let path = format!("{}/{name}/status", pods(namespace));
        self.ask("PATCH", &path, &json!({"status": status})).await;
    }

    async fn change_policy(&mut self) {
        let (namespace, number) = (self.namespace(), self.rng.random_range(0..POLICIES));
        if stays(namespace, number) || self.rng.random_bool(0.65) {
            return self.set_policy(namespace, number).await;
        }
        self.delete(&format!("{}/np{number}", policies(namespace))).await;
    }

    async fn set_policy(&mut self, namespace: usize, number: u8) {
        let name = format!("np{number}");
        let rule = json!({"ports": [{"port": self.rng.random_range(1..=u16::MAX)}]});
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]});
        let policy = json!({"metadata": {"name": name}, "spec": spec});
        self.put(&policies(namespace), &name, &policy).await;
    }

    async fn change_service(&mut self) {
        let (namespace, number) = (self.namespace(), self.rng.random_range(0..SERVICES));
        let path = format!("{}/s{number}", services(namespace));
        match self.rng.random_range(0..10_u8) {
            0..5 => self.set_service(namespace, number).await,
            _ if stays(namespace, number) => {}
            5..7 => {
                let change = json!({"metadata": {"annotations": {"romanaip": null}}});
                self.ask("PATCH", &path, &change).await;
            }
            _ => {
                self.delete(&path).await;
                // As the controller would, which does not run.
                self.delete(&format!("{}/s{number}", self.backends(namespace))).await;
            }
        }
    }

    /// A Service that asks for an address, with one endpoint on a Node that stays.
    async fn set_service(&mut self, namespace: usize, number: u8) {
        let name = format!("s{number}");
        let ip = format!("192.168.99.{}", namespace * 16 + usize::from(number) + 1);
        let annotation = json!({"auto": false, "ip": ip}).to_string();
        let metadata = json!({"name": name, "annotations": {"romanaip": annotation}});
        let service = json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}});
        self.put(&services(namespace), &name, &service).await;
        let (node, ip) = (self.staying_node(), format!("10.200.{namespace}.1"));
        let backend = backend(&name, &node, &ip, self.slices);
        self.put(&self.backends(namespace), &name, &backend).await;
    }

    /// Where the addresses behind Services are listed.
    fn backends(&self, namespace: usize) -> String {
        let namespace = NAMESPACES[namespace];
        match self.slices {
            true => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
            false => format!("{NAMESPACES_PATH}/{namespace}/endpoints"),
        }
    }

    async fn change_namespace(&mut self) {
        let namespace = self.namespace();
        let path = format!("{NAMESPACES_PATH}/{}", NAMESPACES[namespace]);
        match self.rng.random_range(0..4_u8) {
            0 => {
                let team = ["red", "blue"][self.rng.random_range(0..2)];
                let change = json!({"metadata": {"labels": {"team": team}}});
                self.ask("PATCH", &path, &change).await;
            }
            1 if namespace >= NAMESPACES_THAT_STAY => self.delete_namespace(namespace).await,
            _ => {
                let object = json!({"metadata": {"name": NAMESPACES[namespace]}});
                self.ask("POST", NAMESPACES_PATH, &object).await;
            }
        }
    }

    /// Deletes a namespace as the controller manager does, which does not run: it ends when it is empty. If a request
    /// fails on the way, the next attempt goes on.
    async fn delete_namespace(&mut self, namespace: usize) {
        let path = format!("{NAMESPACES_PATH}/{}", NAMESPACES[namespace]);
        self.ask("DELETE", &path, &Value::Null).await;
        for list in self.contents(namespace) {
            let Some(found) = self.ask("GET", &list, &Value::Null).await else { return };
            for object in found["items"].as_array().into_iter().flatten() {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.delete(&format!("{list}/{name}")).await;
            }
        }
        for list in self.contents(namespace) {
            let Some(left) = self.ask("GET", &list, &Value::Null).await else { return };
            if left["items"].as_array().is_none_or(|left| !left.is_empty()) {
                return;
            }
        }
        let Some(mut object) = self.ask("GET", &path, &Value::Null).await else { return };
        object["spec"]["finalizers"] = json!([]);
        self.ask("PUT", &format!("{path}/finalize"), &object).await;
    }

    /// The lists of what a namespace has.
    fn contents(&self, namespace: usize) -> [String; 4] {
        [pods(namespace), policies(namespace), services(namespace), self.backends(namespace)]
    }

    async fn change_node(&mut self) {
        let number = self.rng.random_range(0..NODES.0);
        let path = format!("{NODES_PATH}/{NODE_PREFIX}{number}");
        match self.rng.random_range(0..6_u8) {
            0 | 1 => {
                let rack = self.rng.random_range(0..RACKS).to_string();
                let labels =
                    json!({"rack": rack, "note": self.rng.random_range(0..9_u8).to_string()});
                self.ask("PATCH", &path, &json!({"metadata": {"labels": labels}})).await;
            }
            2 => {
                let drained = json!({"spec": {"unschedulable": self.rng.random_bool(0.5)}});
                self.ask("PATCH", &path, &drained).await;
            }
            3 => {
                let rack = self.rng.random_range(0..RACKS).to_string();
                let labels = json!({"metadata": {"labels": {"rack": rack}}});
                self.ask("PATCH", &format!("{NODES_PATH}/{}", own::HOST), &labels).await;
            }
            4 if number >= NODES.1 => self.delete(&path).await,
            _ => {
                let node = self.node_object(number);
                self.ask("POST", NODES_PATH, &node).await;
            }
        }
    }

    fn node_object(&self, number: u8) -> Value {
        let ip = format!("172.31.0.{}", number + 1);
        json!({
            "metadata": {"name": format!("{NODE_PREFIX}{number}"),
                "labels": {"rack": (number % RACKS).to_string()}},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
        })
    }

    fn namespace(&mut self) -> usize {
        self.rng.random_range(0..NAMESPACES.len())
    }

    fn staying_node(&mut self) -> String {
        format!("{NODE_PREFIX}{}", self.rng.random_range(0..NODES.1))
    }

    /// Deletes objects in namespaces that are gone: a request that created one may have been late.
    pub(super) async fn tidy(&mut self) -> Result<()> {
        let live = self.objects.list(NAMESPACES_PATH).await?;
        let is_live = |name: &str| live.iter().any(|one| one["metadata"]["name"] == name);
        for namespace in (0..NAMESPACES.len()).filter(|at| !is_live(NAMESPACES[*at])) {
            for list in self.contents(namespace) {
                for object in self.objects.list(&list).await? {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    let now = json!({"gracePeriodSeconds": 0});
                    self.objects.call("DELETE", &format!("{list}/{name}"), &now).await?;
                }
            }
        }
        Ok(())
    }
}

/// Whether an object of a namespace stays.
fn stays(namespace: usize, number: u8) -> bool {
    (namespace, number) == (0, 0)
}

fn pods(namespace: usize) -> String {
    format!("{NAMESPACES_PATH}/{}/pods", NAMESPACES[namespace])
}

fn services(namespace: usize) -> String {
    format!("{NAMESPACES_PATH}/{}/services", NAMESPACES[namespace])
}

fn policies(namespace: usize) -> String {
    let namespace = NAMESPACES[namespace];
    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
}

/// The object that lists the one address behind a Service.
fn backend(service: &str, node: &str, ip: &str, slices: bool) -> Value {
    if slices {
        let labels = json!({"kubernetes.io/service-name": service});
        let endpoint = json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}});
        return json!({
            "metadata": {"name": service, "labels": labels}, "addressType": "IPv4",
            "endpoints": [endpoint], "ports": [{"port": 80}],
        });
    }
    let addresses = json!([{"ip": ip, "nodeName": node}]);
    json!({"metadata": {"name": service},
        "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]})
}
