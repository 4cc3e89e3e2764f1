//! Three real replicas that are killed, wiped and restarted.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use romana_client::{Client, ClientConfig, Server};
use serde_json::Value;
use tempfile::TempDir;

use crate::real::{free_port, romanad};
use crate::support::until;

/// Timeout of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Three slots for replicas. All processes are killed when this is dropped.
pub(crate) struct Three {
    pub(crate) dir: TempDir,
    ports: Vec<(u16, u16)>,
    children: Vec<Option<Child>>,
}

impl Three {
    pub(crate) fn new() -> Self {
        let ports = (0..3).map(|_| (free_port(), free_port())).collect();
        Self { dir: tempfile::tempdir().unwrap(), ports, children: vec![None, None, None] }
    }

    pub(crate) fn start(&mut self, at: usize, more: &[&str]) {
        let peers: Vec<String> = (1..)
            .zip(&self.ports)
            .map(|(id, (_, peer))| format!("{id}=127.0.0.1:{peer}"))
            .collect();
        let log = File::options().create(true).append(true).open(self.log(at)).unwrap();
        let child = Command::new(romanad())
            .args(["--id", &(at + 1).to_string(), "--initial-cluster", &peers.join(",")])
            .args(["--listen", &format!("127.0.0.1:{}", self.ports[at].0)])
            .args(["--peer-listen", &format!("127.0.0.1:{}", self.ports[at].1), "--data-dir"])
            .arg(self.data(at))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children[at] = Some(child);
    }

    pub(crate) fn started(more: &[&str]) -> Self {
        let mut three = Self::new();
        (0..3).for_each(|at| three.start(at, more));
        three
    }

    pub(crate) fn data(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("data-{}", at + 1))
    }

    pub(crate) fn log(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("log-{}", at + 1))
    }

    pub(crate) fn server(&self, at: usize) -> Server {
        Server::parse("127.0.0.1", self.ports[at].0).unwrap()
    }

    pub(crate) fn servers(&self) -> Vec<Server> {
        (0..3).map(|at| self.server(at)).collect()
    }

    pub(crate) fn client(&self) -> Client {
        let config = ClientConfig::new(self.servers());
        Client::new(ClientConfig { timeout: PATIENCE, ..config }).unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.children[at].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Waits until a replica has exited with an error, and returns its log.
    pub(crate) fn ended(&mut self, at: usize) -> String {
        let status = self.children[at].take().unwrap().wait().unwrap();
        assert!(!status.success());
        std::fs::read_to_string(self.log(at)).unwrap()
    }

    pub(crate) async fn ready(&self) {
        let client = self.client();
        for server in self.servers() {
            let ready = async || client.get_from::<Value>(&server, "/readyz").await.is_ok();
            until(&format!("{server} is ready"), PATIENCE, ready).await;
        }
    }

    /// Runs `romana` against these replicas.
    pub(crate) fn romana(&self, servers: &[Server], line: &str) -> Output {
        let urls: Vec<String> = servers.iter().map(ToString::to_string).collect();
        Command::new(env!("CARGO_BIN_EXE_romana"))
            .args(["-f", "json", "--timeout", "60s", "-r", &urls.join(",")])
            .args(line.split_whitespace())
            .env_clear()
            .env("HOME", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        let output = self.romana(&self.servers(), line);
        assert!(output.status.success(), "{line}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn refused(&self, line: &str) -> String {
        let output = self.romana(&self.servers(), line);
        assert!(!output.status.success(), "{line}: {output:?}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        error["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl Drop for Three {
    fn drop(&mut self) {
        (0..3).for_each(|at| self.kill(at));
    }
}
