//! A real Kubernetes of two nodes on this machine. Everything in it ends with the value, also when a test panics or is
//! killed.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::Method;
use romana_chaos::http::once;
use romana_testing::built;
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use crate::control_plane::ControlPlane;
use crate::machine::Machine;
use crate::node::{Common, Node};
use crate::{LOOK, PATIENCE, images};

/// Ports of romanad.
const API_PORT: u16 = 9600;
const ANSWER: Duration = Duration::from_secs(3);

pub(crate) struct Lab {
    // The order in which they end.
    pub(crate) nodes: Vec<Node>,
    pub(crate) control: ControlPlane,
    pub(crate) api: Api,
    _dir: TempDir,
}

/// The folder of Kubernetes' programs, which `deploy/test-kubernetes.sh` builds. `None` where they were not built, except
/// in CI.
fn programs() -> Option<PathBuf> {
    built("test-kubernetes.sh", &["--built", "--programs"])
}

impl Lab {
    /// Starts a cluster without a network, and moves this thread into the network of its control plane.
    pub(crate) async fn start(nodes: usize) -> Option<Self> {
        let programs = programs()?;
        let dir = TempDir::with_prefix("romana-kubelets-").expect("a directory");
        let pause = images::pause(dir.path());
        let names: Vec<String> = (1..=nodes).map(|number| format!("n{number}")).collect();
        let machine = Machine::start("control", &pause, dir.path());
        let mut control = ControlPlane::start(machine, &programs, &names);
        let machines = names.iter().zip(1..).map(|(name, number)| {
            let machine = Machine::start(name, &pause, dir.path());
            Node::start(machine, &control.machine, &format!("10.77.0.{number}"))
        });
        let mut nodes: Vec<Node> = machines.collect();
        let images = images::all(dir.path(), &pause);
        control.machine.enter_network();
        let api = ready(&control).await;
        control.start_controllers();
        let common = Common {
            programs: &programs,
            kubeconfig: control.kubeconfig("admin"),
            images: &images,
        };
        for node in &mut nodes {
            until("containerd answers", async || node.has_containerd()).await.expect("containerd");
            node.join(&common, &control.kubeconfig(&node.machine.name));
        }
        let lab = Self { nodes, control, api, _dir: dir };
        lab.until("all nodes have joined", async || lab.joined().await.len() == names.len()).await;
        Some(lab)
    }

    async fn joined(&self) -> Vec<Value> {
        self.api.list("/api/v1/nodes").await.unwrap_or_default()
    }

    /// The `Ready` condition of every node, in the order of their names.
    pub(crate) async fn readiness(&self) -> Vec<(bool, String)> {
        let condition = |node: Value| {
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            let ready = ready.unwrap_or_default();
            let message = ready["message"].as_str().unwrap_or_default().to_owned();
            (ready["status"] == "True", message)
        };
        self.joined().await.into_iter().map(condition).collect()
    }

    /// Waits for a condition. Says how the cluster is if it does not come.
    pub(crate) async fn until(&self, what: &str, so: impl AsyncFnMut() -> bool) {
        if let Err(error) = until(what, so).await {
            panic!("{error}\n{}", self.report().await);
        }
    }

    /// What helps to understand a failure.
    pub(crate) async fn report(&self) -> String {
        let mut parts = Vec::new();
        for arguments in [
            &["get", "nodes,pods", "--all-namespaces", "--output=wide"][..],
            &["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
            &["logs", "--namespace=kube-system", "romanad-0", "--tail=30"],
        ] {
            let said = self.api.try_run(arguments);
            let lines: Vec<&str> = said.lines().collect();
            parts.push(lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        parts.push(format!("{:#}", self.romana("/v1/cluster").await));
        for node in &self.nodes {
            for name in ["kubelet", "containerd", "proxy"] {
                let tail = node.machine.log_tail(name);
                parts.push(format!("{} {name}:\n{tail}", node.machine.name));
            }
            parts.push(self.agent_log(node));
        }
        parts.push(self.control.machine.log_tail("api"));
        parts.join("\n----\n")
    }

    /// The end of the log of a node's agent.
    fn agent_log(&self, node: &Node) -> String {
        let pods = node.machine.path("/var/log/pods");
        let of_agent = |path: &Path| path.to_string_lossy().contains("romana-agent");
        let found = fs::read_dir(pods).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = found.filter(|path| of_agent(path)).flat_map(|path| {
            let dirs = fs::read_dir(path).into_iter().flatten().flatten();
            dirs.flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten())
                .filter_map(|log| fs::read_to_string(log.path()).ok())
                .collect::<Vec<_>>()
        });
        let all = logs.collect::<String>();
        let lines: Vec<&str> = all.lines().collect();
        format!(
            "{} agent:\n{}",
            node.machine.name,
            lines[lines.len().saturating_sub(25)..].join("\n")
        )
    }

    /// What Romana's API answers; null if no replica does.
    pub(crate) async fn romana(&self, path: &str) -> Value {
        for node in &self.nodes {
            let ip: IpAddr = node.address.parse().expect("an address");
            let to = SocketAddr::new(ip, API_PORT);
            if let Ok(answer) = once(to, Method::GET, path, None, ANSWER).await {
                return answer.body;
            }
        }
        Value::Null
    }

    /// The items of a list of Romana. `None`: no replica answers.
    pub(crate) async fn romana_list(&self, path: &str) -> Option<Vec<Value>> {
        self.romana(path).await["items"].as_array().cloned()
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.machine.name == name);
        found.unwrap_or_else(|| panic!("there is no node {name}"))
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) -> Result<(), String> {
    let begun = Instant::now();
    while !so().await {
        if begun.elapsed() > PATIENCE {
            return Err(format!("not within {PATIENCE:?}: {what}"));
        }
        tokio::time::sleep(LOOK).await;
    }
    println!("{:>6} ms  {what}", begun.elapsed().as_millis());
    Ok(())
}

/// The API, once its server is ready.
async fn ready(control: &ControlPlane) -> Api {
    let mut found = None;
    let waited = until("the API server is ready", async || {
        found = control.api().await;
        match &found {
            Some(api) => api.is_ready().await,
            None => false,
        }
    });
    if let Err(error) = waited.await {
        panic!("{error}\n{}", control.machine.log_tail("api"));
    }
    found.expect("it is ready")
}
