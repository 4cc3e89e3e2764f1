//! A cluster of real `romanad` processes on loopback, in a directory of its own, and what can be
//! done to them: kill, pause, restart, cut the power. Everything is ended and removed on drop.

mod disks;
mod programs;

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub use disks::Disk;
pub use programs::{find_romanad, power_shim};

use crate::http;

/// Ports are taken from below the range that outgoing connections use, so that none of those can
/// sit on a replica's port while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// With partitions each replica runs as a user of its own: packets are told apart by it.
const USER_BASE: u32 = 64_000;
/// How long to wait for one answer about the cluster's state.
const ASK: Duration = Duration::from_millis(500);

/// How to build a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many replicas.
    pub replicas: usize,
    /// The `romanad` program.
    pub romanad: PathBuf,
    /// An older one, which all replicas begin with: [`Cluster::set_old`] ends that.
    pub previous: Option<PathBuf>,
    /// Where the cluster's directory is made; the system's temporary directory if absent.
    pub parent: Option<PathBuf>,
    /// Preload the power-cut shim, with this seed for torn writes.
    pub power: Option<u64>,
    /// With `power`: a disk whose fsync lies. Acknowledged data is lost, and the judge must see it.
    pub lying_disk: bool,
    /// Run each replica as a user of its own (needs root; for partitions).
    pub users: bool,
}

/// One replica: a process, or the place of one that is down.
#[derive(Debug)]
pub struct Replica {
    /// Its id, from 1.
    pub id: u64,
    /// Where it serves the API.
    pub api: SocketAddr,
    /// Where it serves its peers.
    pub peer: SocketAddr,
    child: Option<Child>,
    paused: bool,
    starts: u64,
    /// Whether it runs [`ClusterOptions::previous`].
    old: bool,
    /// Came later: it is started with `--join`.
    joins: bool,
}

impl Replica {
    /// Whether it is meant to run (it may be paused).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// Its process, when it is up.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the replica is down")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a bad pid")?;
        kill_process(pid, signal).with_context(|| format!("signal {signal:?} to {}", self.id))
    }
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    /// Before `dir`: unmounted before it is removed.
    small: Option<disks::SmallDisks>,
    dir: TempDir,
    shim: Option<PathBuf>,
    replicas: Vec<Replica>,
    /// What `--initial-cluster` says, for ever.
    founders: String,
    /// Ends that were seen in passing and that `crashes` has still to report.
    ended: Vec<String>,
}

impl Cluster {
    /// Starts a cluster and waits until all replicas are ready.
    ///
    /// # Errors
    /// A program or port is missing, or the cluster is not ready within 30 s.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        Self::build(options, None).await
    }

    async fn build(options: ClusterOptions, small: Option<disks::SmallDisks>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("romana-chaos-");
        let dir = match &options.parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }
        .context("make the cluster's directory")?;
        let shim = match options.power {
            Some(_) => Some(power_shim(dir.path())?),
            None => None,
        };
        let ports = free_ports(options.replicas * 2)?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let replicas = ports
            .chunks_exact(2)
            .zip(1..)
            .map(|(ports, id)| Replica {
                id,
                api: local(ports[0]),
                peer: local(ports[1]),
                child: None,
                paused: false,
                starts: 0,
                old: options.previous.is_some(),
                joins: false,
            })
            .collect::<Vec<Replica>>();
        let founders: Vec<String> =
            replicas.iter().map(|replica| format!("{}={}", replica.id, replica.peer)).collect();
        let founders = founders.join(",");
        let mut cluster = Self { options, small, dir, shim, replicas, founders, ended: Vec::new() };
        cluster.open_to_users()?;
        for at in 0..cluster.replicas.len() {
            cluster.start_replica(at)?;
        }
        if let Err(error) = cluster.wait_ready(Duration::from_secs(30)).await {
            eprintln!("{}", cluster.log_tails(40));
            return Err(error);
        }
        Ok(cluster)
    }

    /// The replicas.
    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// API addresses of all replicas.
    #[must_use]
    pub fn apis(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|replica| replica.api).collect()
    }

    /// The cluster's directory: data and logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The user a replica runs as, when each has its own.
    #[must_use]
    pub fn user_of(&self, at: usize) -> u32 {
        USER_BASE + u32::try_from(at).unwrap_or_default()
    }

    /// Data directory of a replica.
    #[must_use]
    pub fn data_dir(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("data-{}", self.replicas[at].id))
    }

    /// Log file of a replica.
    #[must_use]
    pub fn log_path(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("replica-{}.log", self.replicas[at].id))
    }

    fn open_to_users(&mut self) -> Result<()> {
        for at in 0..self.replicas.len() {
            let dir = self.data_dir(at);
            std::fs::create_dir(&dir).context("make a data directory")?;
            if let Some(small) = &mut self.small {
                small.mount(&dir)?;
            }
            if self.options.users {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(self.dir.path(), mode).context("open the directory")?;
                let user = Some(self.user_of(at));
                std::os::unix::fs::chown(&dir, user, user).context("give a directory away")?;
            }
        }
        Ok(())
    }

    /// Starts a replica that is down, on the data it has.
    ///
    /// # Errors
    /// The program does not start.
    pub fn start_replica(&mut self, at: usize) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(at))?;
        let others = self.replicas.iter().filter(|other| other.is_up());
        let apis: Vec<String> = others.map(|other| format!("http://{}", other.api)).collect();
        let (data, user, control) = (self.data_dir(at), self.user_of(at), self.disk_control(at));
        let replica = &mut self.replicas[at];
        ensure!(replica.child.is_none(), "replica {} is up already", replica.id);
        let program = self.options.previous.as_ref().filter(|_| replica.old);
        let program = program.unwrap_or(&self.options.romanad);
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(&data)
            .args(["--listen", &replica.api.to_string()])
            .args(["--peer-listen", &replica.peer.to_string()])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if replica.joins {
            command.args(["--join", &apis.join(",")]);
        } else {
            command.args(["--id", &replica.id.to_string(), "--initial-cluster", &self.founders]);
        }
        if let Some(small) = &self.small {
            command.args(["--disk-reserve-bytes", &small.reserve.to_string()]);
        }
        if let (Some(shim), Some(seed)) = (&self.shim, self.options.power) {
            // Another seed each time, or every life would lose the same pages.
            let seed = seed.wrapping_add(replica.id * 1_000).wrapping_add(replica.starts);
            command.env("LD_PRELOAD", shim).env("PF_DIR", &data).env("PF_RAND", seed.to_string());
            if self.options.lying_disk {
                command.env("PF_LIE", "1");
            }
            command.env("PF_CTL", control);
            command.env("PF_LOG", self.dir.path().join(format!("power-{}.log", replica.id)));
        }
        if self.options.users {
            command.uid(user).gid(user);
        }
        let spawned = command.spawn();
        replica.child = Some(spawned.with_context(|| format!("start {}", program.display()))?);
        replica.starts += 1;
        replica.paused = false;
        Ok(())
    }

    /// A place for a replica that comes later. It has ports, and no id: see [`Cluster::join_as`].
    ///
    /// # Errors
    /// There are no free ports.
    pub fn add_place(&mut self) -> Result<usize> {
        // The ports of those that are down look free.
        let ports = free_ports(2 + 2 * self.replicas.len())?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let used = |at: &SocketAddr| self.replicas.iter().any(|r| r.api == *at || r.peer == *at);
        let mut free = ports.into_iter().map(local).filter(|at| !used(at));
        let (api, peer) = free.next().zip(free.next()).context("two free ports")?;
        let new = Replica {
            id: 0,
            api,
            peer,
            child: None,
            paused: false,
            starts: 0,
            old: false,
            joins: true,
        };
        self.replicas.push(new);
        Ok(self.replicas.len() - 1)
    }

    /// Gives the place of a replica that is down to a new one, which joins under this id when it is
    /// started. The data that was there is removed.
    ///
    /// # Errors
    /// The data cannot be removed.
    pub fn join_as(&mut self, at: usize, id: u64) -> Result<()> {
        let old = self.data_dir(at);
        if self.replicas[at].id != 0 && old.exists() {
            std::fs::remove_dir_all(&old).context("remove a data directory")?;
        }
        (self.replicas[at].id, self.replicas[at].joins) = (id, true);
        Ok(())
    }

    /// Gives a replica that is down the present program, or the previous one.
    pub fn set_old(&mut self, at: usize, old: bool) {
        self.replicas[at].old = old;
    }

    /// A replica that still runs the previous program.
    #[must_use]
    pub fn outdated(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.old)
    }

    /// kill -9.
    ///
    /// # Errors
    /// The replica is down already.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        let replica = &mut self.replicas[at];
        if let Some(child) = replica.child.as_mut() {
            // Ended by itself: for `crashes` to report, not for us to hide.
            ensure!(child.try_wait()?.is_none(), "replica {} ended by itself", replica.id);
        }
        replica.signal(Signal::KILL)?;
        replica.paused = false;
        if let Some(mut child) = replica.child.take() {
            child.wait().context("wait for a killed replica")?;
        }
        Ok(())
    }

    /// Asks a replica to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It is down already, or does not stop within 10 s.
    pub async fn stop(&mut self, at: usize) -> Result<()> {
        self.replicas[at].signal(Signal::TERM)?;
        self.wait_exit(at, Duration::from_secs(10)).await.map(|_| ())
    }

    /// SIGSTOP: it keeps its connections and answers nobody.
    ///
    /// # Errors
    /// The replica is down.
    pub fn pause(&mut self, at: usize) -> Result<()> {
        self.replicas[at].signal(Signal::STOP)?;
        self.replicas[at].paused = true;
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The replica is down.
    pub fn resume(&mut self, at: usize) -> Result<()> {
        self.replicas[at].signal(Signal::CONT)?;
        self.replicas[at].paused = false;
        Ok(())
    }

    /// Cuts the power of some replicas at once: what they had not fsynced is lost.
    ///
    /// # Errors
    /// One is down, was started without the shim, or does not die of it.
    pub async fn cut_power(&mut self, which: &[usize]) -> Result<()> {
        ensure!(self.shim.is_some(), "the cluster was started without the power-cut shim");
        for &at in which {
            self.replicas[at].signal(Signal::USR2)?;
        }
        for &at in which {
            let status = self.wait_exit(at, Duration::from_secs(5)).await?;
            if status != Some(9) {
                let id = self.replicas[at].id;
                self.ended.push(format!("replica {id} ended before the cut, status {status:?}"));
            }
        }
        Ok(())
    }

    /// Waits until a replica has ended by itself. Returns its exit code.
    ///
    /// # Errors
    /// It is down, or does not end within `patience`.
    pub async fn wait_exit(&mut self, at: usize, patience: Duration) -> Result<Option<i32>> {
        let start = Instant::now();
        loop {
            let replica = &mut self.replicas[at];
            let child = replica.child.as_mut().context("the replica is down")?;
            if let Some(status) = child.try_wait()? {
                replica.child = None;
                return Ok(status.code());
            }
            ensure!(start.elapsed() < patience, "replica {} does not stop", replica.id);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Replicas that ended by themselves since somebody last looked, with how: a violation, unless
    /// it was us.
    pub fn crashes(&mut self) -> Vec<String> {
        let mut crashed = std::mem::take(&mut self.ended);
        for replica in &mut self.replicas {
            let Some(child) = replica.child.as_mut() else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                let how = status.signal().map_or_else(
                    || format!("status {:?}", status.code()),
                    |signal| format!("signal {signal}"),
                );
                crashed.push(format!("replica {} ended by itself, {how}", replica.id));
                replica.child = None;
            }
        }
        crashed
    }

    /// Brings everybody back: resumes the paused, starts those that are down.
    ///
    /// # Errors
    /// One does not start.
    pub fn heal(&mut self) -> Result<()> {
        for at in 0..self.replicas.len() {
            if self.replicas[at].paused {
                self.resume(at)?;
            }
            if !self.replicas[at].is_up() {
                self.start_replica(at)?;
            }
        }
        Ok(())
    }

    /// Waits until every replica that is up answers `/readyz`.
    ///
    /// # Errors
    /// One is not ready within `patience`, or ended.
    pub async fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        for at in 0..self.replicas.len() {
            while self.replicas[at].is_up() {
                let api = self.replicas[at].api;
                let answer = http::once(api, Method::GET, "/readyz", None, ASK).await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    break;
                }
                let id = self.replicas[at].id;
                if start.elapsed() > patience {
                    bail!("replica {id} is not ready after {patience:?}");
                }
                if let [crash, ..] = &self.crashes()[..] {
                    bail!("while waiting for replica {id}: {crash}\n{}", self.log_tails(40));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The leader's place, as the first replica that answers sees it.
    pub async fn leader(&self) -> Option<usize> {
        for replica in self.replicas.iter().filter(|replica| replica.is_up() && !replica.paused) {
            let Ok(answer) = http::once(replica.api, Method::GET, "/v1/cluster", None, ASK).await
            else {
                continue;
            };
            if let Some(leader) = answer.body.get("leader").and_then(Value::as_u64) {
                return self.replicas.iter().position(|replica| replica.id == leader);
            }
        }
        None
    }

    /// Waits for a leader.
    ///
    /// # Errors
    /// There is none within `patience`.
    pub async fn wait_leader(&self, patience: Duration) -> Result<usize> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.leader().await {
                return Ok(at);
            }
            ensure!(start.elapsed() < patience, "no leader after {patience:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines of every log, for a report of a failure.
    #[must_use]
    pub fn log_tails(&self, lines: usize) -> String {
        let mut text = String::new();
        for (at, replica) in self.replicas.iter().enumerate() {
            let log = std::fs::read(self.log_path(at)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let all: Vec<&str> = log.lines().collect();
            let from = all.len().saturating_sub(lines);
            text.push_str(&format!("--- replica {} (last {lines} lines)\n", replica.id));
            for line in &all[from..] {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    /// Keeps the directory (data and logs) after the cluster has ended. Returns its path.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            if let Some(mut child) = replica.child.take() {
                // Nothing to do about a process that cannot be killed.
                _ = child.kill();
                _ = child.wait();
            }
        }
    }
}

/// Free loopback ports. Bound one by one and let go together, so all differ.
///
/// # Errors
/// There are not as many.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    let offset = u16::try_from(std::process::id() % 12_000).unwrap_or_default();
    for step in 0..PORTS.end - PORTS.start {
        if held.len() == count {
            break;
        }
        let port = PORTS.start + (offset.wrapping_mul(7).wrapping_add(step)) % 12_000;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    ensure!(held.len() == count, "there are no {count} free ports");
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// A log file for a process that is no replica.
pub(crate) fn log_file(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join(name);
    File::create(&path).with_context(|| format!("make {}", path.display()))
}
