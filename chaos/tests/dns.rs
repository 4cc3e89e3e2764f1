//! `romana-dns` beside a cluster: names of endpoints from the feed, also when all replicas are gone. (VIPs are refused until
//! agents serve them; `dns/src/names/tests.rs` has their events.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper::Method;
use romana_chaos::cluster::{Cluster, ClusterOptions, find_romanad, free_ports};
use romana_chaos::http::once;
use romana_chaos::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; killed on drop.
struct Dns {
    child: Child,
    port: u16,
    metrics: u16,
}

impl Dns {
    fn start(dir: &Path, servers: &[SocketAddr]) -> Self {
        let ports = free_ports(2).unwrap();
        let servers: Vec<String> =
            servers.iter().map(|server| format!("http://{server}")).collect();
        let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
        let child = Command::new(romanad.with_file_name("romana-dns"))
            .args(["--server", &servers.join(","), "--upstream", "", "--zone", "romana.example"])
            .arg(format!("--listen=127.0.0.1:{}", ports[0]))
            .arg(format!("--metrics=127.0.0.1:{}", ports[1]))
            .arg("--state-dir")
            .arg(dir.join("dns"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port: ports[0], metrics: ports[1] }
    }

    /// Whether `/readyz` says that it is ready.
    fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.metrics)) else { return false };
        let mut answer = String::new();
        let asked = write!(stream, "GET /readyz HTTP/1.0\r\nHost: dns\r\n\r\n");
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
    }

    async fn ready(&self) {
        until("readiness", PATIENCE, async || self.is_ready()).await.unwrap();
    }

    /// The answers that `dig` prints, and the code.
    fn dig(&self, question: &str) -> (String, Vec<String>) {
        let output = Command::new("dig")
            .args(["@127.0.0.1", "-p", &self.port.to_string(), "+tries=1", "+time=10"])
            .args(question.split(' '))
            .output()
            .expect("dig (deploy/test-setup.sh installs what the tests need)");
        let text = String::from_utf8(output.stdout).unwrap();
        let code = text.split_once("status: ").unwrap_or_else(|| panic!("{text}")).1;
        let code = code.split_once(',').unwrap().0.to_owned();
        let records = text.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
        let data = records.filter(|line| !line.contains("\tSOA\t"));
        let mut data: Vec<String> =
            data.map(|line| line.rsplit('\t').next().unwrap().to_owned()).collect();
        data.sort();
        (code, data)
    }

    /// SIGTERM; whether it ends as it should.
    fn stop(mut self) -> bool {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().success()
    }

    fn records(&self, question: &str) -> Vec<String> {
        self.dig(question).1
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // A process that has ended already is fine.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

async fn send(to: SocketAddr, method: Method, path: &str, body: Value) -> Value {
    let answer = once(to, method.clone(), path, Some(&body), PATIENCE).await.unwrap();
    assert!(answer.status < 300, "{method} {path}: {}", answer.body);
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_have_names_also_without_a_cluster() {
    let romanad = find_romanad(None).expect("cargo build --workspace --bins comes first");
    let options = ClusterOptions { replicas: 1, ..ClusterOptions::new(romanad) };
    let cluster = Cluster::start(options).await.unwrap();
    let (api, dir) = (cluster.apis()[0], tempfile::tempdir().unwrap());
    let topology = json!({
        "networks": [{"name": "pods", "cidr": "10.111.0.0/16", "block_mask": 29}],
        "topologies": [{"networks": ["pods"], "map": [{"groups": []}]}],
    });
    send(api, Method::PUT, "/v1/topology", topology).await;
    send(api, Method::POST, "/v1/hosts", json!({"name": "h1", "ip": "192.168.99.10"})).await;
    let allocate = async |name: &str| {
        let body = json!({"name": name, "host": "h1", "tenant": "blue", "segment": "front"});
        let address = send(api, Method::POST, "/v1/addresses", body).await;
        address["ip"].as_str().unwrap().to_owned()
    };
    let first = allocate("vm-1").await;

    let dns = Dns::start(dir.path(), &[api]);
    dns.ready().await;
    let (name, segment) =
        ("vm-1.front.blue.endpoint.romana.example A", "front.blue.endpoint.romana.example A");
    assert_eq!(dns.records(name), [&*first]);
    assert_eq!(dns.records(segment), [&*first]);
    assert_eq!(dns.records(&format!("-x {first}")), ["vm-1.front.blue.endpoint.romana.example."]);
    assert_eq!(dns.dig(&format!("{name}AAA")), ("NOERROR".into(), vec![]));
    assert_eq!(dns.dig("vm-2.front.blue.endpoint.romana.example A").0, "NXDOMAIN");

    // What comes and goes while it is followed.
    let second = allocate("vm-2").await;
    let mut both = vec![first.clone(), second.clone()];
    both.sort();
    until("both", PATIENCE, async || dns.records(segment) == both).await.unwrap();
    once(api, Method::DELETE, "/v1/addresses/vm-1", None, PATIENCE).await.unwrap();
    let gone = until("the end", PATIENCE, async || dns.dig(name).0 == "NXDOMAIN");
    gone.await.unwrap();

    // All replicas are gone; so is the server, for a moment.
    drop(cluster);
    assert_eq!(dns.records(segment), [&*second]);
    assert!(dns.stop());
    let dns = Dns::start(dir.path(), &[api]);
    dns.ready().await;
    assert_eq!(dns.records(segment), [&*second]);
    assert_eq!(dns.dig(name).0, "NXDOMAIN");
}
