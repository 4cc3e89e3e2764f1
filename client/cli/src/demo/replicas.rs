//! Three `romanad` processes on loopback, in a temporary directory.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use romana_client::{Server, model::ClusterStatus};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// Lines of a log printed after a failure.
const LOG_LINES_MAX: usize = 12;
/// Range that ports are chosen from, and the number of attempts.
const PORTS: Range<u16> = 20_000..32_000;
const PORT_TRIES_MAX: usize = 1_000;

/// The replicas. Every process is a child process and is killed when this is dropped.
pub(super) struct Replicas {
    romanad: PathBuf,
    dir: TempDir,
    list: Vec<Replica>,
}

pub(super) struct Replica {
    pub(super) id: u64,
    pub(super) api: u16,
    peer: u16,
    child: Option<Child>,
}

impl Replica {
    pub(super) fn server(&self) -> Result<Server, Failure> {
        Ok(Server::parse("127.0.0.1", self.api)?)
    }
}

/// The `romanad` to run.
pub(super) fn find(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return match path.is_file() {
            true => Ok(path),
            false => Err(Failure::usage(format!("there is no program {}", path.display()))),
        };
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("romanad"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates =
        beside.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join("romanad")));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Failure::usage("romanad is neither beside this program nor in $PATH; say --romanad PATH")
    })
}

/// Free ports of the loopback interface, below the ephemeral range, so that the system does not assign them to
/// another process before they are used.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut listeners = Vec::with_capacity(count);
    let mut last = io::Error::other("no port was tried");
    for _ in 0..PORT_TRIES_MAX {
        if listeners.len() == count {
            break;
        }
        let port = rand::random_range(PORTS);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => listeners.push(listener),
            Err(error) => last = error,
        }
    }
    if listeners.len() < count {
        return Err(last);
    }
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

impl Replicas {
    /// Chooses ports and a directory, and starts nothing.
    pub(super) fn prepare(romanad: PathBuf, keep: bool) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("romana-demo-").disable_cleanup(keep).tempdir();
        let dir = dir.map_err(|error| Failure::io("temporary directory", error))?;
        if keep {
            anstream::eprintln!("data and logs are kept in {}", dir.path().display());
        }
        let ports = free_ports(6).map_err(|error| Failure::io("free ports", error))?;
        let pairs = (1..).zip(ports.chunks_exact(2));
        let list = pairs.filter_map(|(id, pair)| match pair {
            [api, peer] => Some(Replica { id, api: *api, peer: *peer, child: None }),
            _ => None,
        });
        Ok(Self { romanad, dir, list: list.collect() })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Replica> {
        self.list.iter()
    }

    pub(super) fn servers(&self) -> Result<Vec<Server>, Failure> {
        self.list.iter().map(Replica::server).collect()
    }

    /// Starts a replica, for the first time or again.
    pub(super) fn start(&mut self, id: u64) -> Result<(), Failure> {
        let peers: Vec<String> = self
            .list
            .iter()
            .map(|replica| format!("{}=127.0.0.1:{}", replica.id, replica.peer))
            .collect();
        let log = File::options().create(true).append(true).open(self.log(id));
        let log = log.map_err(|error| Failure::io("log file", error))?;
        let errors = log.try_clone().map_err(|error| Failure::io("log file", error))?;
        let data = self.dir.path().join(format!("replica-{id}"));
        let Some(replica) = self.list.iter_mut().find(|replica| replica.id == id) else {
            return Err(Failure::Broken(format!("there is no replica {id}")));
        };
        let mut command = Command::new(&self.romanad);
        command.args(["--id", &id.to_string(), "--initial-cluster", &peers.join(",")]);
        command.args(["--listen", &format!("127.0.0.1:{}", replica.api)]);
        command.args(["--peer-listen", &format!("127.0.0.1:{}", replica.peer)]);
        command.arg("--data-dir").arg(data);
        command.stdin(Stdio::null()).stdout(log).stderr(errors).kill_on_drop(true);
        // In a separate process group: on Ctrl-C the demo stops them in order.
        command.process_group(0);
        let child = command.spawn();
        let child =
            child.map_err(|error| Failure::io(self.romanad.display().to_string(), error))?;
        replica.child = Some(child);
        Ok(())
    }

    /// Sends SIGKILL, and waits until the process has ended.
    pub(super) async fn kill(&mut self, id: u64) -> Result<(), Failure> {
        let replica = self.list.iter_mut().find(|replica| replica.id == id);
        if let Some(mut child) = replica.and_then(|replica| replica.child.take()) {
            child.kill().await.map_err(|error| Failure::io("kill", error))?;
        }
        Ok(())
    }

    /// The id of a replica that exited unexpectedly, if any.
    pub(super) fn ended(&mut self) -> Option<u64> {
        self.list.iter_mut().find_map(|replica| {
            let status = replica.child.as_mut()?.try_wait();
            matches!(status, Ok(Some(_)) | Err(_)).then_some(replica.id)
        })
    }

    /// The id of the leader in a replica's response.
    pub(super) fn leader(&self, cluster: &ClusterStatus) -> Option<u64> {
        cluster.leader.filter(|id| self.list.iter().any(|replica| replica.id == *id))
    }

    fn log(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("replica-{id}.log"))
    }

    /// Prints the last lines of the logs, for the diagnosis of a failure.
    pub(super) fn show_logs(&self) {
        for replica in &self.list {
            let lines = last_lines(&self.log(replica.id));
            if !lines.is_empty() {
                anstream::eprintln!("--- log of replica {}:\n{lines}", replica.id);
            }
        }
    }

    /// Kills all replicas and waits for them. The directory is removed on drop.
    pub(super) async fn stop(mut self) {
        for replica in &mut self.list {
            if let Some(child) = &mut replica.child {
                _ = child.kill().await;
            }
        }
    }
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_MAX);
    lines.get(from..).unwrap_or_default().join("\n")
}
