//! A real kube-apiserver, its objects, and what romanad may do there.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use romana_chaos::wait::until;
use romana_testing::{ApiServer, romanad_grants};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    server: ApiServer,
    /// The port that romanad knows.
    pub(crate) port: u16,
}

/// kube-apiserver, which `deploy/test-kubernetes.sh` builds. `None` where it was not built, except in CI.
pub(crate) fn program() -> Option<PathBuf> {
    romana_testing::built("test-kubernetes.sh", &["--built"])
}

impl Server {
    /// Starts the server and waits until it is ready. `None` where it was not built, except in CI.
    pub(crate) async fn start() -> Option<Self> {
        let server = ApiServer::start("10.96.0.0/16", &["romanad"])?;
        let server = Self { port: server.port(), server };
        server.ready(server.port).await;
        Some(server)
    }

    /// Starts the API server on a port, with the data that there is.
    pub(crate) async fn serve(&mut self, port: u16) {
        self.server.serve(port);
        self.ready(port).await;
    }

    async fn ready(&self, port: u16) {
        let ready = until("a ready API server", PATIENCE, async || {
            let Some(objects) = self.objects_at(port).await else { return false };
            objects.text("/readyz").await.is_some_and(|text| text.starts_with("ok"))
        });
        if let Err(error) = ready.await {
            panic!("{error}\n{}", self.server.log());
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGSTOP: it keeps its connections and does not answer.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.server.process().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("signal kube-apiserver");
    }

    /// The kubeconfig for romanad.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig("romanad")
    }

    /// The objects, for the administrator, at the port that romanad knows.
    pub(crate) async fn objects(&self) -> Objects {
        self.objects_at(self.port).await.expect("a certificate")
    }

    /// The same at another port. `None` before the server has a certificate.
    pub(crate) async fn objects_at(&self, port: u16) -> Option<Objects> {
        let kubeconfig: Kubeconfig =
            serde_json::from_value(self.server.kubeconfig_at(port, "admin")).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.ok()?;
        config.read_timeout = Some(PATIENCE);
        Some(Objects(Client::try_from(config).expect("a client")))
    }
}

/// Requests of the administrator.
#[derive(Clone)]
pub(crate) struct Objects(Client);

impl Objects {
    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value, kube::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        self.0.request(request.body(body).expect("a request")).await
    }

    async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.call(method, path, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.must("GET", path, Value::Null).await
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        self.must("POST", path, object).await
    }

    pub(crate) async fn patch(&self, path: &str, change: Value) -> Value {
        self.must("PATCH", path, change).await
    }

    /// Deletes an object at once, as a kubelet that has stopped a pod does.
    pub(crate) async fn delete(&self, path: &str) {
        self.must("DELETE", path, json!({"gracePeriodSeconds": 0})).await;
    }

    async fn text(&self, path: &str) -> Option<String> {
        let request = Request::builder().uri(path).body(Vec::new()).expect("a request");
        self.0.request_text(request).await.ok()
    }

    pub(crate) async fn node(&self, name: &str, ip: &str) {
        let addresses = json!([{"type": "InternalIP", "address": ip}]);
        let node = json!({
            "metadata": {"name": name, "labels": {"rack": "r1"}},
            "status": {"addresses": addresses},
        });
        self.create("/api/v1/nodes", node).await;
    }

    pub(crate) async fn namespace(&self, name: &str) {
        self.create("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }

    /// Deletes a namespace as the controller manager does, which does not run: without what is in it.
    pub(crate) async fn delete_namespace(&self, name: &str) {
        let path = format!("/api/v1/namespaces/{name}");
        let mut namespace = self.must("DELETE", &path, Value::Null).await;
        namespace["spec"]["finalizers"] = json!([]);
        self.must("PUT", &format!("{path}/finalize"), namespace).await;
    }

    /// A running pod with an address.
    pub(crate) async fn pod(&self, namespace: &str, name: &str, node: &str, ip: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": ports}]},
        });
        self.create(&path, pod).await;
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]});
        self.patch(&format!("{path}/{name}/status"), json!({"status": status})).await;
    }

    pub(crate) async fn policy(&self, namespace: &str, name: &str) {
        let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
        let rule = json!({"ports": [{"port": 8080}]});
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]});
        self.create(&path, json!({"metadata": {"name": name}, "spec": spec})).await;
    }

    /// A service of type LoadBalancer; `None`: the server does not know `loadBalancerClass` (before 1.21).
    pub(crate) async fn balancer(&self, namespace: &str, name: &str, ip: &str) -> Option<Value> {
        let services = format!("/api/v1/namespaces/{namespace}/services");
        let spec = json!({
            "type": "LoadBalancer",
            "loadBalancerClass": "romana.io/vip",
            "loadBalancerIP": ip,
            "ports": [{"port": 80}],
        });
        let made = self.create(&services, json!({"metadata": {"name": name}, "spec": spec})).await;
        (made["spec"]["loadBalancerClass"] == "romana.io/vip").then_some(made)
    }

    /// The version of the server, such as `1.20`.
    pub(crate) async fn version(&self) -> (u32, u32) {
        let version = self.get("/version").await;
        let number = |field: &str| {
            let text = version[field].as_str().expect("a version");
            text.trim_end_matches('+').parse().expect("a number")
        };
        (number("major"), number("minor"))
    }

    /// A service that asks for an external address, with one endpoint.
    pub(crate) async fn service(&self, namespace: &str, name: &str, annotation: &str) {
        let services = format!("/api/v1/namespaces/{namespace}/services");
        let metadata = json!({"name": name, "annotations": {"romanaip": annotation}});
        let spec = json!({"ports": [{"port": 80}]});
        self.create(&services, json!({"metadata": metadata, "spec": spec})).await;
    }

    pub(crate) async fn backend(&self, namespace: &str, service: &str, node: &str, ip: &str) {
        let addresses = json!([{"ip": ip, "nodeName": node}]);
        let subsets = json!([{"addresses": addresses, "ports": [{"port": 80}]}]);
        let endpoints = json!({"metadata": {"name": service}, "subsets": subsets});
        self.create(&format!("/api/v1/namespaces/{namespace}/endpoints"), endpoints).await;
        // From 1.21 on it is followed by its slice, which a controller makes that does not run.
        let slices = "/apis/discovery.k8s.io/v1";
        if self.call("GET", slices, Value::Null).await.is_err() {
            return;
        }
        let labels = json!({"kubernetes.io/service-name": service});
        let slice = json!({
            "metadata": {"name": service, "labels": labels}, "addressType": "IPv4",
            "endpoints": [{"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}],
            "ports": [{"port": 80}],
        });
        self.create(&format!("{slices}/namespaces/{namespace}/endpointslices"), slice).await;
    }

    /// Grants romanad what it needs.
    pub(crate) async fn grant(&self) {
        for (path, object) in romanad_grants() {
            self.create(path, object).await;
        }
    }
}
