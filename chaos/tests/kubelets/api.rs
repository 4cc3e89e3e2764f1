//! The API server as its administrator sees it: requests, and `kubectl` where users would take it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::must;

/// An API server that does not answer is away.
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) struct Api {
    client: Client,
    kubeconfig: PathBuf,
}

impl Api {
    /// Of the server that a kubeconfig names. `None` before there is its certificate.
    pub(crate) async fn open(kubeconfig: &Path) -> Option<Self> {
        let read = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(read, &options).await.ok()?;
        config.read_timeout = Some(ANSWER);
        let client = Client::try_from(config).expect("a client");
        Some(Self { client, kubeconfig: kubeconfig.into() })
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let request = Request::builder().uri("/readyz").body(Vec::new()).expect("a request");
        self.client.request_text(request).await.is_ok_and(|text| text.starts_with("ok"))
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value, kube::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        self.client.request(request.body(body).expect("a request")).await
    }

    async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.call(method, path, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// An object; null if it is not there, or the server is not.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call("GET", path, Value::Null).await.unwrap_or_default()
    }

    /// Whether the server says that there is no such object.
    pub(crate) async fn is_gone(&self, path: &str) -> bool {
        let answer = self.call("GET", path, Value::Null).await;
        matches!(answer, Err(kube::Error::Api(status)) if status.code == 404)
    }

    /// What is listed. `None`: the server does not answer.
    pub(crate) async fn list(&self, path: &str) -> Option<Vec<Value>> {
        let mut answer = self.call("GET", path, Value::Null).await.ok()?;
        match answer["items"].take() {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Pods of a namespace, all of them or those with a label.
    pub(crate) async fn pods(&self, namespace: &str, selector: &str) -> Vec<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
        self.list(&path).await.unwrap_or_default()
    }

    pub(crate) async fn pod(&self, namespace: &str, name: &str) -> Value {
        self.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.must("DELETE", path, json!({"propagationPolicy": "Background"})).await;
    }

    /// A program that uses the administrator's kubeconfig.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        // Discovery is cached in the home directory.
        let home = self.kubeconfig.parent().expect("a folder");
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", home);
        command
    }

    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("kubectl");
        command.args(arguments);
        command
    }

    /// `kubectl`, which must succeed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        must(&mut self.kubectl(arguments))
    }

    /// What `kubectl` says, also when it fails.
    pub(crate) fn try_run(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments).output().expect("start kubectl");
        [output.stdout, output.stderr]
            .map(|said| String::from_utf8_lossy(&said).into_owned())
            .concat()
    }

    /// `kubectl apply -f -`.
    pub(crate) fn apply(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let mut command = self.kubectl(&["apply", "--filename=-"]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("start kubectl (deploy/test-setup.sh)");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(list.to_string().as_bytes()).expect("kubectl reads");
        drop(input);
        let output = child.wait_with_output().expect("kubectl ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
