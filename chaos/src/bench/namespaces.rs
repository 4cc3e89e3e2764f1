//! Network namespaces for benchmarks: one with three replicas, others with hosts and agents.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use romana_client::{Client, ClientConfig, Server};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use tempfile::TempDir;

/// Timeout of start-up.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// Address of the control plane on a site's link.
const CONTROL: &str = "10.77.0.250";

/// A namespace, deleted on drop with its processes.
pub(super) struct Namespace {
    pub(super) name: String,
    /// Processes in the namespace.
    pub(super) children: Vec<Child>,
}

impl Namespace {
    pub(super) fn new(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(Self { name, children: Vec::new() })
    }

    pub(super) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Kills all processes in the namespace.
    pub(super) fn kill_all(&mut self) -> Result<()> {
        let listed = ip(&["netns", "pids", &self.name])?;
        for process in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            // It may have ended.
            _ = Command::new("kill").args(["-KILL", process]).output()?;
        }
        for mut child in self.children.drain(..) {
            child.wait()?;
        }
        Ok(())
    }

    /// Moves the calling thread into the namespace; its child processes inherit it.
    pub(super) fn enter(&self) -> Result<()> {
        enter(&self.path())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for child in &mut self.children {
            _ = child.kill();
            _ = child.wait();
        }
        _ = ip(&["netns", "del", &self.name]);
    }
}

/// Three replicas and hosts on one link. Drop order: hosts, replicas, link, files.
pub(super) struct Site<'a> {
    romanad: &'a Path,
    prefix: String,
    servers: Vec<String>,
    _control: Namespace,
    switch: Namespace,
    dir: TempDir,
}

impl<'a> Site<'a> {
    /// Starts the replicas, and leaves the calling thread in their namespace. `name`: two
    /// letters that no other benchmark uses.
    pub(super) fn start(romanad: &'a Path, name: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("romana-chaos-").tempdir()?;
        let prefix = format!("{name}{}", std::process::id());
        let switch = Namespace::new(format!("{prefix}-sw"))?;
        ip(&["-n", &switch.name, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch.name, "link", "set", "br0", "up"])?;
        let mut control = Namespace::new(format!("{prefix}-ctl"))?;
        plug(&control, &switch, CONTROL)?;
        control.enter()?;
        let servers = start_replicas(romanad, dir.path(), CONTROL, 29, &mut control)?;
        Ok(Self { romanad, prefix, servers, _control: control, switch, dir })
    }

    /// Creates a host `hN` with an agent.
    pub(super) fn host(&self, n: usize, more: &[&str]) -> Result<Namespace> {
        let mut host = self.machine(&format!("h{n}"), &format!("10.77.0.{n}"))?;
        self.agent(&mut host, n, more)?;
        Ok(host)
    }

    /// Creates a machine on the link.
    pub(super) fn machine(&self, name: &str, address: &str) -> Result<Namespace> {
        let machine = Namespace::new(format!("{}-{name}", self.prefix))?;
        plug(&machine, &self.switch, address)?;
        Ok(machine)
    }

    /// Takes the cable of a machine out of the switch (`down`), or puts it in (`up`).
    pub(super) fn cable(&self, name: &str, state: &str) -> Result<()> {
        ip(&["-n", &self.switch.name, "link", "set", name, state]).map(|_| ())
    }

    /// The replicas' APIs.
    pub(super) fn servers(&self) -> String {
        self.servers.join(",")
    }

    /// Starts the agent of host `hN`.
    pub(super) fn agent(&self, host: &mut Namespace, n: usize, more: &[&str]) -> Result<()> {
        let (name, address) = (format!("h{n}"), format!("10.77.0.{n}"));
        let mut agent = Command::new("ip");
        agent.args(["netns", "exec", &host.name]).arg(self.romanad.with_file_name("romana-agent"));
        agent.args(["--server", &self.servers.join(","), "--hostname", &name, "--register"]);
        agent.args(["--host-ip", &address]).args(more);
        agent.arg("--socket").arg(self.dir.path().join(format!("{name}.sock")));
        agent.arg("--state-dir").arg(self.dir.path().join(&name));
        host.children.push(quiet(agent, &self.dir.path().join(format!("{name}.log")))?);
        Ok(())
    }

    /// A client for a thread in the replicas' namespace, once this many hosts are registered.
    pub(super) async fn client(&self, hosts: usize) -> Result<Client> {
        let servers = Server::list(&self.servers.join(","), romana_client::API_PORT)?;
        let client = Client::new(ClientConfig::new(servers))?;
        while client.hosts().await?.items.len() < hosts {}
        Ok(client)
    }
}

/// Moves the calling thread into the namespace at a path.
pub(super) fn enter(path: &str) -> Result<()> {
    let file = File::open(path)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Runs `ip`.
pub(super) fn ip(args: &[&str]) -> Result<Output> {
    let output = Command::new("ip").args(args).output().context("run ip (iproute2)")?;
    ensure!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// Connects a host to the link.
pub(super) fn plug(host: &Namespace, switch: &Namespace, address: &str) -> Result<()> {
    let port = host.name.rsplit('-').next().unwrap_or_default();
    let make = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &host.name];
    ip(&[&["-n", &switch.name][..], &make].concat())?;
    ip(&["-n", &switch.name, "link", "set", port, "master", "br0", "up"])?;
    ip(&["-n", &host.name, "link", "set", "eth0", "up"])?;
    ip(&["-n", &host.name, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    Ok(())
}

/// Starts three replicas at an address in this thread's namespace, and sets a topology with one group and
/// blocks of `block_mask`. Returns their APIs.
pub(super) fn start_replicas(
    romanad: &Path,
    dir: &Path,
    at: &str,
    block_mask: u8,
    host: &mut Namespace,
) -> Result<Vec<String>> {
    let peers: Vec<String> = (1..=3).map(|n| format!("{n}={at}:97{n}0")).collect();
    for n in 1..=3 {
        let mut command = Command::new(romanad);
        command.arg("--data-dir").arg(dir.join(format!("data-{n}")));
        command.args(["--id", &n.to_string(), "--initial-cluster", &peers.join(",")]);
        command.args(["--listen", &format!("{at}:96{n}0")]);
        command.args(["--peer-listen", &format!("{at}:97{n}0")]);
        host.children.push(quiet(command, &dir.join(format!("romanad-{n}.log")))?);
    }
    let servers: Vec<String> = (1..=3).map(|n| format!("http://{at}:96{n}0")).collect();
    let network = json!({"name": "net", "cidr": "10.112.0.0/12", "block_mask": block_mask});
    let topology = json!({"networks": [network],
        "topologies": [{"networks": ["net"], "map": [{"groups": []}]}]});
    let file = dir.join("topology.json");
    std::fs::write(&file, topology.to_string())?;
    until("the topology is set", || {
        let mut command = Command::new(romanad.with_file_name("romana"));
        command.args(["-r", &servers.join(","), "topology", "update"]).arg(&file);
        command.output().is_ok_and(|output| output.status.success())
    })?;
    Ok(servers)
}

/// Starts a program whose output goes to a log.
pub(super) fn quiet(mut command: Command, log: &Path) -> Result<Child> {
    let log = File::create(log)?;
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("run {}", program.display()))
}

/// Waits until a condition holds.
pub(super) fn until(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !so() {
        ensure!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}
