//! A laboratory: hosts, racks, routers and a control plane, each in its own network namespace. Everything is
//! removed on drop, also after a panic.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use romana_agent::status::Status;
use romana_client::{Client, ClientConfig};
use romana_statemachine::command::AllocateAddress;
use romana_statemachine::{Command, Revision};
use serde_json::Value;

/// Timeout of all waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Poll interval.
const LOOK: Duration = Duration::from_millis(20);
/// Address of the replicas: the control plane is another machine on the first rack's link.
const CONTROL: &str = "10.77.0.250";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The laboratory.
pub(crate) struct Lab {
    name: String,
    dir: tempfile::TempDir,
    namespaces: Vec<String>,
    replicas: Vec<Child>,
    agents: Vec<(String, Child)>,
    /// Additional flags and variables for all agents.
    options: Vec<String>,
    variables: Vec<(String, String)>,
    /// Programs for replicas and agents started from now on.
    romanad: PathBuf,
    agent: PathBuf,
}

impl Lab {
    /// An empty laboratory.
    pub(crate) fn new() -> Self {
        assert!(rustix::process::getuid().is_root(), "network namespaces need root");
        let name = format!("rt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().expect("a directory");
        let (romanad, agent) = (beside("romanad"), env!("CARGO_BIN_EXE_romana-agent").into());
        let (namespaces, replicas, agents, options, variables) = Default::default();
        Self { name, dir, namespaces, replicas, agents, options, variables, romanad, agent }
    }

    /// Three hosts `h1` to `h3` on one link, 10.77.0.N and fd77::N, and the control plane.
    pub(crate) fn one_link() -> Self {
        Self::one_link_of(&beside("romanad"))
    }

    /// The same, with another program for the replicas.
    pub(crate) fn one_link_of(romanad: &Path) -> Self {
        let mut lab = Self::new();
        lab.romanad_is(romanad);
        lab.link("sw");
        for n in 1..=3 {
            lab.host(
                &format!("h{n}"),
                "sw",
                &[&format!("10.77.0.{n}/24"), &format!("fd77::{n}/64")],
            );
        }
        lab.control("sw");
        lab
    }

    /// Agents do not enforce policy: they would isolate containers created manually.
    pub(crate) fn unfiltered(&mut self) {
        self.options(&["--policy=false"]);
    }

    /// Sets additional flags for agents started from now on.
    pub(crate) fn options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// Sets additional variables for agents started from now on.
    pub(crate) fn variables(&mut self, variables: &[(&str, String)]) {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.variables = owned.collect();
    }

    /// The process of a host's agent.
    pub(crate) fn agent_process(&self, host: &str) -> u32 {
        let found = self.agents.iter().find(|(name, _)| name == host);
        found.expect("it runs").1.id()
    }

    /// Kills a replica with SIGKILL. `number`: from 1.
    pub(crate) fn kill_replica(&mut self, number: usize) {
        let replica = &mut self.replicas[number - 1];
        _ = replica.kill();
        _ = replica.wait();
    }

    /// Sets the program of replicas started from now on.
    pub(crate) fn romanad_is(&mut self, program: &Path) {
        self.romanad = program.into();
    }

    /// Sets the program of agents started from now on.
    pub(crate) fn agent_is(&mut self, program: &Path) {
        self.agent = program.into();
    }

    /// Output of a program on a host. `None`: it failed.
    pub(crate) fn text(&self, host: &str, args: &[&str]) -> Option<String> {
        let output = self.try_exec(host, args)?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Metrics of a host's agent.
    pub(crate) fn metrics(&self, host: &str) -> String {
        in_namespace_thread(&self.ns(host), || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9607").expect("it answers");
            let ask = "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n";
            stream.write_all(ask.as_bytes()).expect("it reads");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("it writes");
            text
        })
    }

    /// Submits commands sequentially. Returns the revision after them.
    pub(crate) fn submit(&self, commands: Vec<Command>) -> Revision {
        self.with_client(async move |client| {
            let mut revision = Revision(0);
            for command in &commands {
                let done = client.submit(command).await;
                revision = done.unwrap_or_else(|error| panic!("{command:?}: {error:?}")).revision;
            }
            revision
        })
    }

    /// Sends GET requests for these paths sequentially.
    pub(crate) fn get(&self, paths: Vec<String>) -> Vec<Value> {
        self.with_client(async move |client| {
            let mut answers = Vec::new();
            for path in paths {
                answers.push(client.get(path).await.expect("an answer"));
            }
            answers
        })
    }

    /// Runs `work` with a client of the replicas, in their namespace.
    fn with_client<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Client) -> T + Send + 'static,
    ) -> T {
        let servers = (1..=3).map(|n| format!("http://{CONTROL}:96{n}0").parse().expect("a URL"));
        let config = ClientConfig::new(servers.collect());
        in_namespace_thread(&self.ns("ctl"), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let work = async { work(Client::new(config).expect("a client")).await };
            runtime.expect("a runtime").block_on(work)
        })
    }

    /// Waits until every agent has the policies of a revision in the kernel.
    pub(crate) fn settled(&self, revision: Revision) {
        for (host, _) in &self.agents {
            let settled = |status: Status| {
                status.policy.and_then(|policy| policy.applied).is_some_and(|at| at >= revision)
            };
            until("policies are in the kernel", || self.status(host).is_some_and(settled));
        }
    }

    /// Connects the hosts to a second link, 10.88.0.N.
    pub(crate) fn second_link(&mut self) {
        self.link("sw2");
        for n in 1..=3 {
            self.plug(&format!("h{n}"), "eth1", "sw2", &[&format!("10.88.0.{n}/24")]);
        }
    }

    /// Allocates addresses on two hosts in turn, each for its own tenant and so in its own block.
    pub(crate) fn allocate_by_turns(&self, count: usize, hosts: [&str; 2]) {
        let commands = (0..count).map(|n| AllocateAddress {
            name: format!("a{n}").into(),
            host: hosts[n % 2].into(),
            tenant: format!("t{n}").into(),
            segment: "s".into(),
            network: None,
            ip: None,
        });
        let commands: Vec<AllocateAddress> = commands.collect();
        self.with_client(async move |client| {
            let asked = commands.into_iter().map(|command| client.allocate(command));
            futures_util::future::try_join_all(asked).await.expect("allocated");
        });
    }

    /// Two racks with two hosts each, 10.77.0.N and 10.78.0.N, a router `rt` between them, and
    /// the control plane in the first.
    pub(crate) fn two_racks() -> Self {
        let mut lab = Self::new();
        for (rack, subnet) in [("sw1", 77), ("sw2", 78)] {
            lab.link(rack);
            for n in 1..=2 {
                let name = format!("h{}", n + if subnet == 77 { 0 } else { 2 });
                lab.host(&name, rack, &[&format!("10.{subnet}.0.{n}/24")]);
                let via = format!("10.{subnet}.0.254");
                lab.ip(&name, &["route", "add", "default", "via", &via]);
            }
        }
        lab.host("rt", "sw1", &["10.77.0.254/24"]);
        lab.plug("rt", "eth1", "sw2", &["10.78.0.254/24"]);
        lab.control("sw1");
        lab.ip("ctl", &["route", "add", "default", "via", "10.77.0.254"]);
        lab
    }

    /// The full name of a namespace.
    pub(crate) fn ns(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// A directory that is removed with the laboratory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Creates an empty namespace for a container. Returns its path.
    pub(crate) fn container(&mut self, name: &str) -> String {
        self.namespace(name);
        format!("/run/netns/{}", self.ns(name))
    }

    /// Deletes the namespace of a container, as a runtime does.
    pub(crate) fn delete_container(&mut self, name: &str) {
        let name = self.ns(name);
        run("ip", &["netns", "del", &name]);
        self.namespaces.retain(|namespace| *namespace != name);
    }

    /// A call of the plugin on a host, as by a runtime.
    pub(crate) fn cni(&self, host: &str, command: &str, container: &str, netns: &str) -> Cni {
        let socket = self.socket(host);
        let state_dir = self.dir.path().join(host);
        let config = serde_json::json!({
            "cniVersion": "1.1.0", "name": "romana", "type": "romana-cni",
            "socket": socket, "stateDir": state_dir, "mtu": 1400,
        });
        let vars = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Cni { ns: self.ns(host), vars, config }
    }

    /// Names and addresses of a host in the log.
    pub(crate) fn allocated(&self, host: &str) -> Vec<(String, IpAddr)> {
        let list = self.romana(&["address", "list", "--host", host]);
        let items = list["items"].as_array().expect("a list").iter();
        let pair = |item: &Value| {
            let text = |key: &str| item[key].as_str().expect("a text").to_owned();
            (text("name"), text("ip").parse().expect("an address"))
        };
        items.map(pair).collect()
    }

    /// Endpoints in the log.
    pub(crate) fn endpoints(&self) -> Value {
        self.romana(&["audit", "state"])["endpoints"].clone()
    }

    /// Links of containers on a host.
    pub(crate) fn links(&self, host: &str) -> Vec<String> {
        let all = self.ip_json(host, &["link", "show"]);
        let names =
            all.as_array().expect("a list").iter().filter_map(|link| link["ifname"].as_str());
        names.filter(|name| name.starts_with("romana-")).map(str::to_owned).collect()
    }

    /// Number of files of attachments in the agent's state directory.
    pub(crate) fn attachment_count(&self, host: &str) -> usize {
        let dirs = ["attachments", "spool"].map(|dir| self.dir.path().join(host).join(dir));
        dirs.iter().filter_map(|dir| Some(fs::read_dir(dir).ok()?.count())).sum()
    }

    fn namespace(&mut self, host: &str) {
        let name = self.ns(host);
        run("ip", &["netns", "add", &name]);
        self.namespaces.push(name);
        self.ip(host, &["link", "set", "lo", "up"]);
    }

    /// Adds a link between machines.
    pub(crate) fn link(&mut self, switch: &str) {
        self.namespace(switch);
        self.ip(switch, &["link", "add", "br0", "type", "bridge"]);
        self.ip(switch, &["link", "set", "br0", "up"]);
    }

    /// Adds a machine to a link.
    pub(crate) fn host(&mut self, host: &str, switch: &str, addresses: &[&str]) {
        self.namespace(host);
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            self.exec(host, &["tee", &format!("/proc/sys/{key}")], Some("1"));
        }
        self.plug(host, "eth0", switch, addresses);
    }

    /// Connects a machine to a link.
    pub(crate) fn plug(&self, host: &str, link: &str, switch: &str, addresses: &[&str]) {
        let (ns, port) = (self.ns(host), format!("{host}-{link}"));
        let peer = ["peer", "name", link, "netns", &ns];
        self.ip(switch, &[&["link", "add", &port, "type", "veth"][..], &peer].concat());
        self.ip(switch, &["link", "set", &port, "master", "br0", "up"]);
        self.ip(host, &["link", "set", link, "up"]);
        for address in addresses {
            let nodad = if address.contains(':') { &["nodad"][..] } else { &[] };
            self.ip(host, &[&["addr", "add", address, "dev", link], nodad].concat());
        }
    }

    fn control(&mut self, switch: &str) {
        self.host("ctl", switch, &[&format!("{CONTROL}/24")]);
        self.start_replicas();
    }

    /// Starts the three replicas on new or existing data, and waits until they answer.
    pub(crate) fn start_replicas(&mut self) {
        let peers: Vec<String> = (1..=3).map(|n| format!("{n}={CONTROL}:97{n}0")).collect();
        let (ns, peers) = (self.ns("ctl"), peers.join(","));
        for n in 1..=3 {
            let data = self.dir.path().join(format!("data-{n}"));
            let mut command = in_namespace(&ns, &self.romanad);
            command.arg("--data-dir").arg(data).args(["--id", &n.to_string()]);
            command.args(["--listen", &format!("{CONTROL}:96{n}0")]);
            command.args([
                "--peer-listen",
                &format!("{CONTROL}:97{n}0"),
                "--initial-cluster",
                &peers,
            ]);
            command.args(["--disk-reserve-bytes", "0"]);
            self.replicas.push(spawn(command, &self.dir.path().join(format!("romanad-{n}.log"))));
        }
        until("the replicas answer", || self.try_romana(&["cluster", "status"]).is_some());
    }

    /// Log output of the replicas since their last start.
    pub(crate) fn replica_logs(&self) -> String {
        let logs = (1..=3).map(|n| self.dir.path().join(format!("romanad-{n}.log")));
        logs.filter_map(|log| fs::read_to_string(log).ok()).collect()
    }

    /// Kills all replicas with SIGKILL.
    pub(crate) fn kill_replicas(&mut self) {
        self.replicas.drain(..).for_each(end);
    }

    /// Starts the agent of a host and waits until it is ready.
    pub(crate) fn start_agent(&mut self, host: &str, more: &[&str]) {
        self.spawn_agent(host, more, None);
        until("the agent is ready", || self.status(host).is_some_and(|status| status.agrees()));
        until("it serves the plugin", || self.socket(host).exists());
    }

    /// Starts the agent of a host, optionally to crash at a step.
    pub(crate) fn spawn_agent(&mut self, host: &str, more: &[&str], crash_at: Option<&str>) {
        self.spawn_agent_as(host, host, more, crash_at);
    }

    /// Starts an agent on a host under the name of another host.
    pub(crate) fn spawn_agent_as(
        &mut self,
        host: &str,
        name: &str,
        more: &[&str],
        crash_at: Option<&str>,
    ) {
        let mut command = in_namespace(&self.ns(host), &self.agent);
        let servers: Vec<String> = (1..=3).map(|n| format!("http://{CONTROL}:96{n}0")).collect();
        command.args(["--server", &servers.join(","), "--hostname", name]);
        let own = if host == name { host.to_owned() } else { format!("{host}-as-{name}") };
        command.arg("--state-dir").arg(self.dir.path().join(&own)).args(more);
        command.arg("--socket").arg(self.socket(&own));
        command.args(&self.options);
        command.envs(self.variables.iter().cloned());
        command.envs(crash_at.map(|step| ("ROMANA_AGENT_CRASH_AT", step)));
        let child = spawn(command, &self.dir.path().join(format!("agent-{host}.log")));
        self.agents.push((host.into(), child));
    }

    /// The socket of a host's agent.
    pub(crate) fn socket(&self, host: &str) -> PathBuf {
        self.dir.path().join(format!("{host}.sock"))
    }

    /// Kills the agent of a host with SIGKILL.
    pub(crate) fn kill_agent(&mut self, host: &str) {
        let at = self.agents.iter().position(|(name, _)| name == host).expect("it runs");
        end(self.agents.swap_remove(at).1);
    }

    /// Stops the agent of a host with SIGTERM, so that its saved view is current.
    pub(crate) fn stop_agent(&mut self, host: &str) {
        let at = self.agents.iter().position(|(name, _)| name == host).expect("it runs");
        let mut agent = self.agents.swap_remove(at).1;
        run("kill", &["-TERM", &agent.id().to_string()]);
        assert!(agent.wait().expect("it ends").success());
    }

    /// The status of a host's agent.
    pub(crate) fn status(&self, host: &str) -> Option<Status> {
        let mut command =
            in_namespace(&self.ns(host), Path::new(env!("CARGO_BIN_EXE_romana-agent")));
        let output = command.args(["status", "--json"]).output().expect("it can be run");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// Runs the CLI. `None`: it failed.
    pub(crate) fn try_romana(&self, args: &[&str]) -> Option<Value> {
        let text = self.romana_text(args)?;
        Some(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn cli(&self, args: &[&str]) -> Output {
        let servers: Vec<String> = (1..=3).map(|n| format!("http://{CONTROL}:96{n}0")).collect();
        let mut command = in_namespace(&self.ns("ctl"), &beside("romana"));
        command.args(["-f", "json", "-r", &servers.join(",")]).args(args);
        command.output().expect("it can be run")
    }

    /// Output of a command that fails if it finds something.
    pub(crate) fn findings(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.cli(args).stdout).into_owned()
    }

    /// The refusal printed by the CLI.
    pub(crate) fn refusal(&self, args: &[&str]) -> Value {
        let output = self.cli(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stderr).expect("an error as JSON")
    }

    /// The CLI's text output.
    pub(crate) fn romana_text(&self, args: &[&str]) -> Option<String> {
        let output = self.cli(args);
        if !output.status.success() {
            eprintln!("romana {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the CLI, which must succeed.
    pub(crate) fn romana(&self, args: &[&str]) -> Value {
        self.try_romana(args).unwrap_or_else(|| panic!("romana {args:?} failed"))
    }

    /// Sets the topology and a policy that allows everything, for tests of other things.
    pub(crate) fn topology(&self, document: &Value) {
        self.closed_topology(document);
        self.policy(&serde_json::json!({
            "name": "open", "applied_to": [{"dest": "local"}],
            "peers": [{"peer": "any"}], "rules": [{"protocol": "any"}]}));
    }

    /// Sets the topology.
    pub(crate) fn closed_topology(&self, document: &Value) {
        let file = self.file("topology.json", document);
        self.romana(&["topology", "update", &file]);
    }

    /// Sets policies.
    pub(crate) fn policy(&self, document: &Value) {
        let file = self.file("policy.json", document);
        self.romana(&["policy", "add", &file]);
    }

    /// Writes a document to a file. Returns its path.
    pub(crate) fn file(&self, name: &str, document: &Value) -> String {
        let file = self.dir.path().join(name);
        fs::write(&file, document.to_string()).expect("written");
        file.to_str().expect("a path").to_owned()
    }

    /// Allocates an address and creates a pod for it manually, as the CNI plugin would.
    pub(crate) fn pod(&mut self, name: &str, host: &str, network: &str) -> IpAddr {
        let args = ["address", "allocate", "--host", host, "--network", network, name];
        let ip = self.romana(&args)["ip"].as_str().expect("an address").to_owned();
        let address: IpAddr = ip.parse().expect("an address");
        let (length, any) = if address.is_ipv4() { (32, "0.0.0.0/0") } else { (128, "::/0") };
        self.namespace(name);
        let (ns, link) = (self.ns(name), format!("romana-{name}"));
        let peer = ["peer", "name", "eth0", "netns", &ns];
        self.ip(host, &[&["link", "add", &link, "type", "veth"][..], &peer].concat());
        self.ip(host, &["link", "set", &link, "up"]);
        self.ip(name, &["link", "set", "eth0", "up"]);
        let nodad = if address.is_ipv6() { &["nodad"][..] } else { &[] };
        let whole = format!("{ip}/{length}");
        self.ip(name, &[&["addr", "add", &whole, "dev", "eth0"], nodad].concat());
        // The peer of the pair accepts packets for any address.
        let mac = self.ip_json(host, &["link", "show", "dev", &link])[0]["address"].clone();
        let mac = mac.as_str().expect("a MAC address").to_owned();
        let (gateway, local) =
            if address.is_ipv4() { ("169.254.1.1", "32") } else { ("fe80::1", "128") };
        let dev = ["dev", "eth0"];
        if address.is_ipv4() {
            let to = format!("{gateway}/{local}");
            self.ip(name, &[&["route", "add", &to][..], &dev, &["scope", "link"]].concat());
        }
        self.ip(name, &[&["neigh", "add", gateway, "lladdr", &mac][..], &dev].concat());
        self.ip(name, &[&["route", "add", any, "via", gateway][..], &dev].concat());
        self.ip(host, &["route", "add", &whole, "dev", &link, "proto", "57"]);
        address
    }

    /// Pings between pods until it works.
    pub(crate) fn reaches(&self, from: &str, to: IpAddr) {
        let to = to.to_string();
        until(&format!("{from} reaches {to}"), || {
            self.try_exec(from, &["ping", "-n", "-c", "1", "-W", "1", &to]).is_some()
        });
    }

    /// Whether a pod's ping is answered.
    pub(crate) fn is_answered(&self, from: &str, to: &str) -> bool {
        self.try_exec(from, &["ping", "-n", "-c", "1", "-W", "1", to]).is_some()
    }

    /// Rules of a chain in a host's `nat` table.
    pub(crate) fn nat(&self, host: &str, args: &[&str]) -> Option<String> {
        let output = self.try_exec(host, &[&["iptables", "-t", "nat"], args].concat())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a ping with 500 packets a second.
    pub(crate) fn start_ping(&self, from: &str, to: IpAddr) -> Ping {
        let mut command = in_namespace(&self.ns(from), Path::new("ping"));
        command.args(["-n", "-i", "0.002", &to.to_string()]);
        Ping(command.stdout(Stdio::piped()).spawn().expect("ping runs"))
    }

    /// A host's routes of our protocol, except those to pods: destination and next hop, sorted.
    pub(crate) fn routes(&self, host: &str) -> Vec<String> {
        let mut found = Vec::new();
        for family in ["-4", "-6"] {
            let all = self.ip_json(host, &[family, "route", "show", "proto", "57"]);
            for route in all.as_array().expect("a list") {
                let text = |key: &str| route[key].as_str().map(str::to_owned);
                if text("dev").is_some_and(|dev| dev.starts_with("romana-")) {
                    continue;
                }
                let via = text("gateway").or_else(|| text("type")).unwrap_or_default();
                found.push(format!("{} {via}", route["dst"].as_str().expect("a destination")));
            }
        }
        found.sort();
        found
    }

    /// Waits until the routes of a host are these.
    pub(crate) fn expect_routes(&self, host: &str, wanted: &[String]) {
        let mut wanted = wanted.to_vec();
        wanted.sort();
        let start = Instant::now();
        while self.routes(host) != wanted {
            let (found, said) = (self.routes(host), self.status(host));
            assert!(start.elapsed() < PATIENCE, "{host}: {found:?}, not {wanted:?}\n{said:#?}");
            sleep(LOOK);
        }
    }

    /// `ip` in the namespace of a host.
    pub(crate) fn ip(&self, host: &str, args: &[&str]) {
        run("ip", &[&["-n", &self.ns(host)], args].concat());
    }

    /// The same, with its output.
    pub(crate) fn ip_json(&self, host: &str, args: &[&str]) -> Value {
        let output = run("ip", &[&["-j", "-n", &self.ns(host)], args].concat());
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Array(vec![]))
    }

    /// Runs a program on a host, with this input.
    fn exec(&self, host: &str, args: &[&str], input: Option<&str>) {
        use std::io::Write;
        let mut command = in_namespace(&self.ns(host), Path::new(args[0]));
        command.args(&args[1..]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(input.unwrap_or_default().as_bytes()).expect("it reads");
        drop(stdin);
        assert!(child.wait().expect("it ends").success(), "{host}: {args:?}");
    }

    /// Runs a program on a host. `None`: it failed.
    pub(crate) fn try_exec(&self, host: &str, args: &[&str]) -> Option<Output> {
        let output = in_namespace(&self.ns(host), Path::new(args[0])).args(&args[1..]).output();
        Some(output.expect("it runs")).filter(|output| output.status.success())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        self.kill_replicas();
        self.agents.drain(..).for_each(|(_, agent)| end(agent));
        for name in &self.namespaces {
            // Kill remaining processes (pings) first.
            if let Ok(pids) = Program::new("ip").args(["netns", "pids", name]).output() {
                for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                    _ = Program::new("kill").args(["-9", pid]).status();
                }
            }
            _ = Program::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl Lab {
    fn print_logs(&self) {
        let Ok(entries) = fs::read_dir(self.dir.path()) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let from = lines.len().saturating_sub(25);
                eprintln!("--- {}\n{}", path.display(), lines[from..].join("\n"));
            }
        }
    }
}

/// A call of the plugin.
#[derive(Clone)]
pub(crate) struct Cni {
    ns: String,
    vars: Vec<(String, String)>,
    /// The network configuration.
    pub(crate) config: Value,
}

impl Cni {
    /// Sets an environment variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.vars.retain(|(other, _)| other != name);
        self.vars.push((name.into(), value.into()));
    }

    /// Calls the plugin. Returns success and the output.
    pub(crate) fn call(&self) -> (bool, Value) {
        use std::io::Write;
        let mut command = in_namespace(&self.ns, Path::new("env"));
        command.arg("-i").args(self.vars.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(env!("CARGO_BIN_EXE_romana-cni"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(self.config.to_string().as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8(output.stdout).expect("text");
        let printed = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
        };
        (output.status.success(), printed)
    }

    /// Calls the plugin, which must succeed.
    pub(crate) fn ok(&self) -> Value {
        let (success, printed) = self.call();
        assert!(success, "{printed}");
        printed
    }
}

/// Addresses in a result.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap_or_else(|| panic!("no ips in {result}")).iter();
    let address = |ip: &Value| {
        ip["address"].as_str().expect("an address").split('/').next().map(str::to_owned)
    };
    ips.filter_map(address).map(|ip| ip.parse().expect("an address")).collect()
}

/// A running ping.
pub(crate) struct Ping(Child);

impl Ping {
    /// Stops it. Returns packets sent and received.
    pub(crate) fn end(self) -> (u64, u64) {
        let pid = self.0.id().to_string();
        run("kill", &["-INT", &pid]);
        let output = self.0.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let line = line.unwrap_or_else(|| panic!("no summary in {text}"));
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
        (numbers.next().expect("sent"), numbers.next().expect("received"))
    }
}

/// Waits until a condition holds.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(LOOK);
    }
}

pub(crate) fn beside(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_romana-agent")).with_file_name(program);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

fn in_namespace(ns: &str, program: &Path) -> Program {
    let mut command = Program::new("ip");
    command.args(["netns", "exec", ns]).arg(program);
    command
}

/// Runs `work` on a thread in a namespace.
pub(crate) fn in_namespace_thread<T: Send + 'static>(
    ns: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let path = format!("/run/netns/{ns}");
    let thread = std::thread::spawn(move || {
        let file = fs::File::open(path).expect("the namespace");
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).expect("root");
        work()
    });
    thread.join().expect("it ends")
}

fn spawn(mut command: Program, log: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it runs")
}

fn end(mut child: Child) {
    _ = child.kill();
    _ = child.wait();
}

pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    let output = Program::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    output
}
