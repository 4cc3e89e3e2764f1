//! A real kube-apiserver with its etcd on loopback: token authentication, RBAC, TLS. Its processes and files are removed
//! on drop.

#[path = "../../../deploy/built.rs"]
mod built;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use romana_chaos::cluster::free_ports;
use romana_chaos::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Who may do what, besides the administrator.
const TOKENS: &str =
    "admin-token,admin,uid-admin,system:masters\nromanad-token,romanad,uid-romanad\n";

pub(crate) struct Server {
    program: PathBuf,
    dir: TempDir,
    etcd: Child,
    etcd_port: u16,
    api: Option<Child>,
    /// The port that romanad knows.
    pub(crate) port: u16,
}

/// kube-apiserver, which `deploy/test-kubernetes.sh` builds. `None` where it was not built, except in CI.
fn program() -> Option<PathBuf> {
    built::built("test-kubernetes.sh", &["--built"])
}

impl Server {
    /// Starts the server and waits until it is ready.
    pub(crate) async fn start() -> Option<Self> {
        let program = program()?;
        let dir = TempDir::with_prefix("kubernetes-").expect("a directory");
        fs::write(dir.path().join("tokens.csv"), TOKENS).expect("write the tokens");
        let key = dir.path().join("service-accounts.pem");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output();
        assert!(made.expect("run openssl").status.success(), "openssl makes no key");
        let [etcd_port, etcd_peers, port] = free_ports(3).expect("ports")[..] else {
            unreachable!("three ports were asked for")
        };
        let etcd = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path().join("etcd"))
            .args(["--listen-client-urls", &format!("http://127.0.0.1:{etcd_port}")])
            .args(["--advertise-client-urls", &format!("http://127.0.0.1:{etcd_port}")])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{etcd_peers}")])
            .stdin(Stdio::null())
            .stdout(log(dir.path(), "etcd.log"))
            .stderr(log(dir.path(), "etcd-errors.log"))
            .spawn()
            .expect("start etcd (package etcd-server)");
        let mut server = Self { program, dir, etcd, etcd_port, api: None, port };
        server.serve(port).await;
        server.write_kubeconfig();
        Some(server)
    }

    /// Starts the API server on a port, with the data that there is.
    pub(crate) async fn serve(&mut self, port: u16) {
        assert!(self.api.is_none(), "it runs");
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let api = Command::new(&self.program)
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16"])
            .arg(format!("--secure-port={port}"))
            .arg(format!("--cert-dir={}", path("certs")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", path("service-accounts.pem")))
            .arg(format!("--service-account-signing-key-file={}", path("service-accounts.pem")))
            .arg(format!("--token-auth-file={}", path("tokens.csv")))
            .args(["--authorization-mode=RBAC", "--endpoint-reconciler-type=none"])
            .args(["--allow-privileged=true", "--disable-admission-plugins=ServiceAccount"])
            .stdin(Stdio::null())
            .stdout(log(self.dir.path(), "api.log"))
            .stderr(log(self.dir.path(), "api-errors.log"))
            .spawn()
            .expect("start kube-apiserver");
        self.api = Some(api);
        let ready = until("a ready API server", PATIENCE, async || {
            let Some(objects) = self.objects_at(port).await else { return false };
            objects.text("/readyz").await.is_some_and(|text| text.starts_with("ok"))
        });
        if let Err(error) = ready.await {
            panic!("{error}\n{}", self.log());
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut api = self.api.take().expect("it runs");
        api.kill().expect("kill kube-apiserver");
        api.wait().expect("wait for kube-apiserver");
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
        let api = self.api.as_ref().expect("it runs");
        let pid = i32::try_from(api.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("signal kube-apiserver");
    }

    /// The kubeconfig for romanad.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("romanad.kubeconfig")
    }

    fn write_kubeconfig(&self) {
        let text = self.config(self.port, "romanad-token").to_string();
        fs::write(self.kubeconfig(), text).expect("write the kubeconfig");
    }

    fn config(&self, port: u16, token: &str) -> Value {
        let authority = self.dir.path().join("certs/apiserver.crt");
        let server = format!("https://127.0.0.1:{port}");
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": authority}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
    }

    /// The objects, for the administrator, at the port that romanad knows.
    pub(crate) async fn objects(&self) -> Objects {
        self.objects_at(self.port).await.expect("a certificate")
    }

    /// The same at another port. `None` before the server has a certificate.
    pub(crate) async fn objects_at(&self, port: u16) -> Option<Objects> {
        let kubeconfig: Kubeconfig =
            serde_json::from_value(self.config(port, "admin-token")).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.ok()?;
        config.read_timeout = Some(PATIENCE);
        Some(Objects(Client::try_from(config).expect("a client")))
    }

    /// The end of its log.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("api-errors.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.api.iter_mut().chain([&mut self.etcd]) {
            // A process that has ended already is fine.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

fn log(dir: &Path, name: &str) -> File {
    File::options().create(true).append(true).open(dir.join(name)).expect("a log file")
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
    }

    /// What romanad may do.
    pub(crate) async fn grant(&self) {
        let watch = json!(["get", "list", "watch"]);
        let rules = json!([
            {"apiGroups": [""], "verbs": watch,
             "resources": ["nodes", "namespaces", "pods", "services", "endpoints"]},
            {"apiGroups": ["networking.k8s.io"], "verbs": watch, "resources": ["networkpolicies"]},
            {"apiGroups": ["discovery.k8s.io"], "verbs": watch, "resources": ["endpointslices"]},
            {"apiGroups": ["events.k8s.io"], "verbs": ["create", "patch"], "resources": ["events"]},
            {"apiGroups": [""], "verbs": ["patch"], "resources": ["services", "services/status"]},
        ]);
        let (api, group) = ("/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io");
        let role = json!({"metadata": {"name": "romanad"}, "rules": rules});
        self.create(&format!("{api}/clusterroles"), role).await;
        let binding = json!({
            "metadata": {"name": "romanad"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "romanad"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "romanad"}],
        });
        self.create(&format!("{api}/clusterrolebindings"), binding).await;
    }
}
