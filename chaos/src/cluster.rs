//! A cluster of real `romanad` processes on loopback in its own directory, with operations on them: kill,
//! pause, restart, cut the power. All processes and files are removed on drop.

mod api_server;
mod clocks;
mod disks;
mod lives;
mod net;
mod programs;
mod proxy;
mod watch;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use api_server::{ApiServer, Objects};
pub use clocks::WrongClock;
pub use disks::{Disk, SmallDisk};
pub use net::{Link, Net, Treatment};
pub use programs::{find_kube_apiserver, find_romanad, power_shim};
pub use romana_testing::free_ports;

/// Ports of API and peers if each replica has its own network namespace.
const OWN_PORTS: (u16, u16) = (9600, 9601);

/// Options of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub replicas: usize,
    pub romanad: PathBuf,
    /// An older program, which all replicas run until [`Cluster::set_old`].
    pub previous: Option<PathBuf>,
    /// Parent of the cluster's directory; default: the system's temporary directory.
    pub parent: Option<PathBuf>,
    /// Preload the shim for disk and clock faults; the seed determines torn writes.
    pub shim: Option<u64>,
    /// With `shim`: fsync does nothing. Acknowledged data is lost, and the oracle must detect it.
    pub lying_disk: bool,
    /// Give each replica its own network namespace (needs root).
    pub namespaces: bool,
    /// Give each replica a small disk (needs root).
    pub small_disks: Option<SmallDisk>,
    /// The kube-apiserver program: one is started, and the replicas follow it.
    pub kubernetes: Option<PathBuf>,
    /// Further arguments of each replica.
    pub arguments: Vec<String>,
    /// Whether replicas that have lost their data ask the others for a new place.
    pub rejoin: bool,
}

impl ClusterOptions {
    /// Three replicas on loopback, on the existing file system.
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
            kubernetes: None,
            arguments: Vec::new(),
            rejoin: false,
        }
    }
}

/// A replica, running or not.
#[derive(Debug)]
pub struct Replica {
    pub id: u64,
    /// Address of the API.
    pub api: SocketAddr,
    /// Address of the peer listener.
    pub peer: SocketAddr,
    child: Option<Child>,
    paused: bool,
    /// Its process may exit without a crash being reported.
    may_end: bool,
    starts: u64,
    /// Whether it runs [`ClusterOptions::previous`].
    old: bool,
    /// Added later: started with `--join`.
    joins: bool,
}

impl Replica {
    /// Whether it has a process (which may be paused).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it has a process that is not paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// Its process id, if it is up.
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
    /// Declared after the replicas, which are killed first on drop.
    net: Option<Net>,
    /// Declared before `dir`: unmounted before that is removed.
    small: Option<disks::SmallDisks>,
    /// Likewise: its files are in `dir`.
    api_server: Option<ApiServer>,
    dir: TempDir,
    shim: Option<PathBuf>,
    replicas: Vec<Replica>,
    /// The unchanging value of `--initial-cluster`.
    founders: String,
    /// Exits that were observed and that `crashes` has not reported yet.
    ended: Vec<String>,
    lives: Lives,
}

/// The last process of every replica, by id. Clones share the map.
#[derive(Clone, Debug, Default)]
pub struct Lives(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Lives {
    fn began(&self, replica: u64, process: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(replica, process);
    }

    /// The current or last process of every replica.
    #[must_use]
    pub fn all(&self) -> BTreeMap<u64, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Cluster {
    /// Starts a cluster and waits until all replicas are ready.
    ///
    /// # Errors
    /// A program or port is missing, or the cluster is not ready within 30 s.
    pub async fn start(mut options: ClusterOptions) -> Result<Self> {
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
        let judge = net.as_ref().map_or(Ipv4Addr::LOCALHOST, Net::judge);
        let api_server = followed(&mut options, dir.path(), judge).await?;
        let (replicas, founders, ended, lives) = Default::default();
        let mut cluster =
            Self { options, net, small, api_server, dir, shim, replicas, founders, ended, lives };
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

    /// The replicas' processes.
    #[must_use]
    pub fn lives(&self) -> Lives {
        self.lives.clone()
    }

    /// The cluster's directory, with data and logs.
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

    /// The network between replicas, if they have their own namespaces.
    pub fn net(&mut self) -> Option<&mut Net> {
        self.net.as_mut()
    }

    /// The API server that the replicas follow.
    ///
    /// # Errors
    /// They follow none ([`ClusterOptions::kubernetes`]).
    pub fn api_server(&mut self) -> Result<&mut ApiServer> {
        self.api_server.as_mut().context("the replicas follow no Kubernetes API server")
    }

    /// Creates a replica's data directory.
    fn make_disk(&mut self, at: usize) -> Result<()> {
        let dir = self.data_dir(at);
        std::fs::create_dir(&dir).context("make a data directory")?;
        self.small.as_mut().map_or(Ok(()), |small| small.mount(&dir))
    }

    /// Starts a replica that is down, with its existing data.
    ///
    /// # Errors
    /// The program does not start.
    pub fn start_replica(&mut self, at: usize) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(at))?;
        // Including replicas that are down, as they may be up when it connects.
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
        command.args(&self.options.arguments);
        if replica.joins {
            command.args(["--join", &apis.join(",")]);
        } else {
            command.args(["--id", &replica.id.to_string(), "--initial-cluster", &self.founders]);
        }
        if self.options.rejoin {
            command.args(["--rejoin", &apis.join(",")]);
        }
        if let Some(small) = &self.small {
            command.args(["--disk-reserve-bytes", &small.size.reserve.to_string()]);
        }
        let spawned = command.spawn();
        let child = spawned.with_context(|| format!("start {}", program.display()))?;
        self.lives.began(replica.id, child.id());
        replica.child = Some(child);
        replica.starts += 1;
        replica.paused = false;
        Ok(())
    }

    /// Environment of the shim for a replica's next start.
    fn shim_vars(&self, at: usize) -> Vec<(&'static str, String)> {
        let (Some(shim), Some(seed)) = (&self.shim, self.options.shim) else { return Vec::new() };
        let replica = &self.replicas[at];
        // Another seed for each start, so that different pages are lost.
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

    /// The shim's log of power cuts at a place.
    #[must_use]
    pub fn power_log(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("power-{}.log", at + 1))
    }

    /// Adds a place with ports for a replica that joins later; its id is set by [`Cluster::join_as`].
    ///
    /// # Errors
    /// There are no free ports, or no namespace can be created.
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
        // The clock file must exist before it is read.
        self.set_clock(at, WrongClock::default())?;
        Ok(at)
    }

    fn two_free_ports(&self) -> Result<(SocketAddr, SocketAddr)> {
        // Ports of replicas that are down appear free.
        let ports = free_ports(2 + 2 * self.replicas.len())?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let used = |at: &SocketAddr| self.replicas.iter().any(|r| r.api == *at || r.peer == *at);
        let mut free = ports.into_iter().map(local).filter(|at| !used(at));
        free.next().zip(free.next()).context("two free ports")
    }

    /// Assigns a place whose replica is down to a new member, which joins with this id when
    /// started. Removes the old data.
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

    /// Selects the current or the previous program for a replica that is down.
    pub fn set_old(&mut self, at: usize, old: bool) {
        self.replicas[at].old = old;
    }

    /// A replica that still runs the previous program.
    #[must_use]
    pub fn outdated(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.old)
    }

    /// Removes the last place, whose replica is down.
    pub fn remove_last_place(&mut self) {
        self.replicas.pop();
    }

    /// Keeps the directory (data and logs) on drop. Returns its path.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }
}

/// Starts the API server that the options ask for, and makes the replicas follow it.
async fn followed(
    options: &mut ClusterOptions,
    dir: &Path,
    judge: Ipv4Addr,
) -> Result<Option<ApiServer>> {
    let Some(program) = &options.kubernetes else { return Ok(None) };
    let server = Box::pin(ApiServer::start(program, dir.join("kubernetes"), judge)).await?;
    let kubeconfig = server.kubeconfig().display().to_string();
    options.arguments.extend(["--kubernetes".into(), "--kubeconfig".into(), kubeconfig]);
    Ok(Some(server))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            if let Some(mut child) = replica.child.take() {
                // A process that cannot be killed is ignored.
                _ = child.kill();
                _ = child.wait();
            }
        }
    }
}
