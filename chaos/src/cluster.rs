//! A cluster of real `romanad` processes on loopback, in a directory of its own, and what can be
//! done to them: kill, pause, restart, cut the power. Everything is ended and removed on drop.

mod clocks;
mod disks;
mod net;
mod programs;

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub use clocks::WrongClock;
pub use disks::{Disk, SmallDisk};
pub use net::{Link, Net, Treatment};
pub use programs::{find_romanad, power_shim};

use crate::http;

/// Ports are taken from below the range that outgoing connections use, so that none of those can
/// sit on a replica's port while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports of the API and of peers, where each replica has a network namespace of its own.
const OWN_PORTS: (u16, u16) = (9600, 9601);
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
    /// Preload the shim that breaks disks and clocks, with this seed for torn writes.
    pub shim: Option<u64>,
    /// With `shim`: a disk whose fsync lies. Acknowledged data is lost, and the judge must see it.
    pub lying_disk: bool,
    /// Give each replica a network namespace of its own (needs root).
    pub namespaces: bool,
    /// Give each replica a small disk (needs root).
    pub small_disks: Option<SmallDisk>,
}

impl ClusterOptions {
    /// Three replicas on loopback and the disk that is there.
    #[must_use]
    pub fn new(romanad: PathBuf) -> Self {
        Self {
            replicas: 3,
            romanad,
            previous: None,
            parent: None,
            shim: None,
            lying_disk: false,
            namespaces: false,
            small_disks: None,
        }
    }
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
    /// It may end by itself: that is no crash.
    may_end: bool,
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

    /// Whether it runs, and is not paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some() && !self.paused
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
    /// After the replicas, which end when the cluster is dropped.
    net: Option<Net>,
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
        let mut builder = tempfile::Builder::new();
        builder.prefix("romana-chaos-");
        let dir = match &options.parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }
        .context("make the cluster's directory")?;
        let shim = options.shim.is_some().then(|| power_shim(dir.path())).transpose()?;
        let net = options.namespaces.then(Net::new).transpose()?;
        let small = options.small_disks.map(disks::SmallDisks::new);
        let (replicas, founders, ended) = Default::default();
        let mut cluster = Self { options, net, small, dir, shim, replicas, founders, ended };
        for _ in 0..cluster.options.replicas {
            let at = cluster.add_place()?;
            let old = cluster.options.previous.is_some();
            let replica = &mut cluster.replicas[at];
            (replica.id, replica.old, replica.joins) = (at as u64 + 1, old, false);
            cluster.make_disk(at)?;
        }
        let founder = |replica: &Replica| format!("{}={}", replica.id, replica.peer);
        cluster.founders = cluster.replicas.iter().map(founder).collect::<Vec<_>>().join(",");
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

    /// The network between them, if each has a namespace of its own.
    pub fn net(&mut self) -> Option<&mut Net> {
        self.net.as_mut()
    }

    /// Makes a replica's data directory.
    fn make_disk(&mut self, at: usize) -> Result<()> {
        let dir = self.data_dir(at);
        std::fs::create_dir(&dir).context("make a data directory")?;
        self.small.as_mut().map_or(Ok(()), |small| small.mount(&dir))
    }

    /// Starts a replica that is down, on the data it has.
    ///
    /// # Errors
    /// The program does not start.
    pub fn start_replica(&mut self, at: usize) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(at))?;
        // Also those that are down: they may be there before it asks.
        let others = self.replicas.iter().enumerate().filter(|(other, _)| *other != at);
        let apis: Vec<String> = others.map(|(_, other)| format!("http://{}", other.api)).collect();
        let vars = self.shim_vars(at);
        let (data, replica) = (self.data_dir(at), &mut self.replicas[at]);
        ensure!(replica.child.is_none(), "replica {} is up already", replica.id);
        let program = self.options.previous.as_ref().filter(|_| replica.old);
        let program = program.unwrap_or(&self.options.romanad);
        let mut command = match &self.net {
            Some(net) => net.command(at, &vars, program),
            None => Command::new(program),
        };
        if self.net.is_none() {
            command.envs(vars);
        }
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
            command.args(["--disk-reserve-bytes", &small.size.reserve.to_string()]);
        }
        let spawned = command.spawn();
        replica.child = Some(spawned.with_context(|| format!("start {}", program.display()))?);
        replica.starts += 1;
        replica.paused = false;
        Ok(())
    }

    /// What the shim is told when a replica starts.
    fn shim_vars(&self, at: usize) -> Vec<(&'static str, String)> {
        let (Some(shim), Some(seed)) = (&self.shim, self.options.shim) else { return Vec::new() };
        let replica = &self.replicas[at];
        // Another seed each time, or every life would lose the same pages.
        let seed = seed.wrapping_add(replica.id * 1_000).wrapping_add(replica.starts);
        let shown = |path: PathBuf| path.display().to_string();
        let mut vars = vec![
            ("LD_PRELOAD", shown(shim.clone())),
            ("PF_DIR", shown(self.data_dir(at))),
            ("PF_RAND", seed.to_string()),
            ("PF_CTL", shown(self.disk_control(at))),
            ("PF_CLOCK", shown(self.clock_file(at))),
            ("PF_LOG", shown(self.power_log(at))),
        ];
        if self.options.lying_disk {
            vars.push(("PF_LIE", String::from("1")));
        }
        vars
    }

    /// What the shim says of cuts of a place's power.
    #[must_use]
    pub fn power_log(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("power-{}.log", at + 1))
    }

    /// A place for a replica that comes later. It has ports, and no id: see [`Cluster::join_as`].
    ///
    /// # Errors
    /// There are no free ports, or no namespace can be made.
    pub fn add_place(&mut self) -> Result<usize> {
        let at = self.replicas.len();
        let (api, peer) = match &mut self.net {
            Some(net) => {
                net.add_place(at)?;
                let ip = net.ip(at);
                ((ip, OWN_PORTS.0).into(), (ip, OWN_PORTS.1).into())
            }
            None => self.two_free_ports()?,
        };
        self.replicas.push(Replica {
            id: 0,
            api,
            peer,
            child: None,
            paused: false,
            may_end: false,
            starts: 0,
            old: false,
            joins: true,
        });
        // The clock of a place is there before anybody looks at it.
        self.set_clock(at, WrongClock::default())?;
        Ok(at)
    }

    fn two_free_ports(&self) -> Result<(SocketAddr, SocketAddr)> {
        // The ports of those that are down look free.
        let ports = free_ports(2 + 2 * self.replicas.len())?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let used = |at: &SocketAddr| self.replicas.iter().any(|r| r.api == *at || r.peer == *at);
        let mut free = ports.into_iter().map(local).filter(|at| !used(at));
        free.next().zip(free.next()).context("two free ports")
    }

    /// Gives the place of a replica that is down to a new one, which joins under this id when it is
    /// started. The data that was there is removed.
    ///
    /// # Errors
    /// The data cannot be removed.
    pub fn join_as(&mut self, at: usize, id: u64) -> Result<()> {
        let old = self.data_dir(at);
        if self.replicas[at].id != 0 && old.exists() {
            if let Some(small) = &mut self.small {
                small.unmount(&old)?;
            }
            std::fs::remove_dir_all(&old).context("remove a data directory")?;
        }
        (self.replicas[at].id, self.replicas[at].joins) = (id, true);
        self.make_disk(at)
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
            let ended = child.try_wait()?.is_some();
            ensure!(!ended || replica.may_end, "replica {} ended by itself", replica.id);
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
        ensure!(self.shim.is_some(), "the cluster was started without the shim");
        for &at in which {
            self.replicas[at].signal(Signal::USR2)?;
        }
        for &at in which {
            let status = self.wait_exit(at, Duration::from_secs(5)).await?;
            // One that has only just started dies of the signal itself: it had nothing to lose.
            let cut = status.code() == Some(9) || status.signal() == Some(Signal::USR2.as_raw());
            if !cut && !self.replicas[at].may_end {
                let id = self.replicas[at].id;
                self.ended.push(format!("replica {id} ended before the cut, {status}"));
            }
        }
        Ok(())
    }

    /// Waits until a replica has ended by itself. Returns how.
    ///
    /// # Errors
    /// It is down, or does not end within `patience`.
    pub async fn wait_exit(&mut self, at: usize, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            let replica = &mut self.replicas[at];
            let child = replica.child.as_mut().context("the replica is down")?;
            if let Some(status) = child.try_wait()? {
                replica.child = None;
                return Ok(status);
            }
            ensure!(start.elapsed() < patience, "replica {} does not stop", replica.id);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Replicas that ended by themselves since somebody last looked, with how: a violation, unless
    /// it was us.
    pub fn crashes(&mut self) -> Vec<String> {
        let mut crashed = std::mem::take(&mut self.ended);
        for replica in self.replicas.iter_mut().filter(|replica| !replica.may_end) {
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

    /// Says whether a replica may end by itself from now on.
    pub fn expect_end(&mut self, at: usize, may_end: bool) {
        self.replicas[at].may_end = may_end;
    }

    /// Notes that a replica has ended, if it has. Says whether it is down.
    pub fn settle_end(&mut self, at: usize) -> bool {
        let replica = &mut self.replicas[at];
        let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        if replica.child.as_mut().is_some_and(ended) {
            replica.child = None;
        }
        replica.child.is_none()
    }

    /// Takes the last place away; its replica is down.
    pub fn remove_last_place(&mut self) {
        self.replicas.pop();
    }

    /// Brings everybody back.
    ///
    /// # Errors
    /// One does not start.
    pub fn heal(&mut self) -> Result<()> {
        (0..self.replicas.len()).try_for_each(|at| self.revive(at))
    }

    /// Resumes a replica that is paused, starts one that is down.
    ///
    /// # Errors
    /// It does not start.
    pub fn revive(&mut self, at: usize) -> Result<()> {
        if self.replicas[at].paused {
            self.resume(at)?;
        }
        if self.replicas[at].is_up() { Ok(()) } else { self.start_replica(at) }
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
