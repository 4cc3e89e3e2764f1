//! A real Kubernetes of some nodes on this machine. Everything in it ends with the value, also when a test panics or is
//! killed.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hyper::Method;
use romana_chaos::cluster::find_romanad;
use romana_chaos::http::once;
use romana_client::{API_PORT, Server};
use romana_testing::built;
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use crate::control_plane::ControlPlane;
use crate::machine::Machine;
use crate::node::{Common, Node};
use crate::{LOOK, PATIENCE, images};

const ANSWER: Duration = Duration::from_secs(3);

pub(crate) struct Lab {
    // The order in which they end.
    pub(crate) nodes: Vec<Node>,
    pub(crate) control: ControlPlane,
    pub(crate) api: Api,
    /// The folder of Kubernetes' programs.
    programs: PathBuf,
    /// The first process of machines.
    init: PathBuf,
    _dir: TempDir,
}

/// The folder of Kubernetes' programs, which `deploy/test-kubernetes.sh` builds. `None` where they were not built, except
/// in CI.
fn programs() -> Option<PathBuf> {
    built("test-kubernetes.sh", &["--built", "--programs"])
}

impl Lab {
    /// Starts a cluster without a network, and moves this thread into the network of its control plane. The first nodes
    /// get the label of nodes for replicas.
    pub(crate) async fn start(nodes: usize, replicas: usize) -> Option<Self> {
        let programs = programs()?;
        let dir = TempDir::with_prefix("romana-kubelets-").expect("a directory");
        let init = images::pause(dir.path());
        let names: Vec<String> = (1..=nodes).map(|number| format!("n{number}")).collect();
        let machine = Machine::start("control", &init, dir.path());
        let mut control = ControlPlane::start(machine, &programs, &names);
        let machines = names.iter().zip(1..).map(|(name, number)| {
            let machine = Machine::start(name, &init, dir.path());
            let address = format!("10.77.0.{number}");
            Node::start(machine, &control.machine, &address, number <= replicas)
        });
        let nodes: Vec<Node> = machines.collect();
        let images = images::all(dir.path(), &init);
        control.machine.enter_network();
        let api = ready(&control).await;
        control.start_controllers();
        let mut lab = Self { nodes, control, api, programs, init, _dir: dir };
        for at in 0..lab.nodes.len() {
            until("containerd answers", async || lab.nodes[at].has_containerd())
                .await
                .expect("containerd");
            lab.nodes[at].import(&images);
            lab.join(at);
        }
        lab.until("all nodes have joined", async || lab.joined().await.len() == names.len()).await;
        Some(lab)
    }

    /// Starts kubelet and kube-proxy on a node.
    fn join(&mut self, at: usize) {
        let common =
            Common { programs: &self.programs, kubeconfig: self.control.kubeconfig("admin") };
        let node = &mut self.nodes[at];
        let kubeconfig = self.control.kubeconfig(&node.machine.name);
        node.join(&common, &kubeconfig);
    }

    fn position(&self, name: &str) -> usize {
        let at = self.nodes.iter().position(|node| node.machine.name == name);
        at.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// Cuts a node's power: everything on it ends at once. Returns when the others see no link to it.
    pub(crate) async fn power_off(&mut self, name: &str) {
        let at = self.position(name);
        self.nodes[at].power_off();
        let port = self.nodes[at].machine.port();
        let switch = &self.control.machine;
        self.until("its link is gone", async || {
            let shown = switch.command("ip").args(["link", "show", &port]).output();
            !shown.expect("start nsenter (package util-linux)").status.success()
        })
        .await;
    }

    /// Starts a node again that was powered off.
    pub(crate) async fn power_on(&mut self, name: &str) {
        let at = self.position(name);
        self.nodes[at].power_on(&self.init, &self.control.machine);
        self.until("containerd answers", async || self.nodes[at].has_containerd()).await;
        self.join(at);
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
        self.until_within(PATIENCE, what, so).await;
    }

    /// The same for what takes longer.
    pub(crate) async fn until_within(
        &self,
        patience: Duration,
        what: &str,
        so: impl AsyncFnMut() -> bool,
    ) {
        if let Err(error) = until_within(patience, what, so).await {
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

    /// What Romana's API answers; null if no replica can.
    pub(crate) async fn romana(&self, path: &str) -> Value {
        for node in &self.nodes {
            if let Some(answer) = romana_on(node, path).await {
                return answer;
            }
        }
        Value::Null
    }

    /// The replicas, and other nodes, where nothing answers.
    pub(crate) fn servers(&self) -> Vec<Server> {
        let server = |node: &Node| {
            Server::parse(&format!("http://{}", node.address), API_PORT).expect("a server")
        };
        self.nodes.iter().map(server).collect()
    }

    /// `romana`, with the replicas and the administrator's kubeconfig.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Command {
        let romana = find_romanad(None).expect("programs").with_file_name("romana");
        let servers: Vec<String> = self.servers().iter().map(ToString::to_string).collect();
        let mut command = self.api.command(romana);
        command.args(["--rootURL", &servers.join(",")]).args(arguments);
        command
    }

    /// `romana` in the pod of a replica, as deploy/README.md has it.
    pub(crate) fn exec(&self, arguments: &[&str]) -> String {
        let exec = ["exec", "--namespace=kube-system", "romanad-0", "--", "romana"];
        self.api.run(&[&exec[..], arguments].concat())
    }

    /// The items of a list of Romana. `None`: no replica answers.
    pub(crate) async fn romana_list(&self, path: &str) -> Option<Vec<Value>> {
        self.romana(path).await["items"].as_array().cloned()
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[self.position(name)]
    }
}

/// What the replica on a node answers. `None`: nothing, or a refusal.
pub(crate) async fn romana_on(node: &Node, path: &str) -> Option<Value> {
    let ip: IpAddr = node.address.parse().expect("an address");
    let to = SocketAddr::new(ip, API_PORT);
    let answer = once(to, Method::GET, path, None, ANSWER).await.ok()?;
    (answer.status == 200).then_some(answer.body)
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, so: impl AsyncFnMut() -> bool) -> Result<(), String> {
    until_within(PATIENCE, what, so).await
}

pub(crate) async fn until_within(
    patience: Duration,
    what: &str,
    mut so: impl AsyncFnMut() -> bool,
) -> Result<(), String> {
    let begun = Instant::now();
    while !so().await {
        if begun.elapsed() > patience {
            return Err(format!("not within {patience:?}: {what}"));
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
