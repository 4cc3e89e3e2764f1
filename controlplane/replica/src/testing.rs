//! Replicas in one process, on loopback and real disks, for tests.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "for tests: they may panic, and their names say what they do"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use romana_api::backup::Restoration;
use romana_statemachine::command::{AllocateAddress, HostSpec, RaiseVersion, TenantSpec};
use romana_statemachine::{Actor, Command, Labels, Outcome, Proposal, State};
use romana_storage::wal::WalError;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::backup::take::{Take, origin};
use crate::backup::{file, restore};
use crate::{ClocksStatus, ProposeError, Replica, ReplicaConfig, StartError, Tuning, WallClock};

/// Longest wait for a condition.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Waits until `condition` returns a value.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = soon();
    let mut clock = tokio::time::interval(Duration::from_millis(5));
    loop {
        clock.tick().await;
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}

pub fn tenant(name: &str) -> Proposal {
    let spec = TenantSpec { id: name.into(), labels: Labels::new() };
    Proposal { actor: Actor::from("test"), command: Command::CreateTenant(spec) }
}

/// Creates a tenant; retries if the outcome is unknown, because creation is idempotent.
pub async fn create(replica: &Replica, name: &str) -> Outcome {
    loop {
        match replica.propose(vec![tenant(name)], soon()).await {
            Ok(outcomes) => return outcomes.into_iter().next().unwrap(),
            Err(ProposeError::Unknown { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn has(replica: &Replica, name: &str) -> bool {
    replica.with_state(|state| state.tenant(&name.into()).is_some())
}

/// Three replica slots: directories and addresses that survive restarts.
pub struct Cluster {
    /// Parent of their data directories.
    pub dir: TempDir,
    addresses: BTreeMap<u64, SocketAddr>,
    /// Peer listeners of replicas that were not started yet.
    pub listeners: BTreeMap<u64, TcpListener>,
    pub running: BTreeMap<u64, Replica>,
    /// The machines' clocks, which tests can set wrong.
    walls: BTreeMap<u64, WallClock>,
    /// Tuning for replicas started from now on.
    pub tuning: Tuning,
}

impl Cluster {
    pub async fn new(size: u64) -> Self {
        let (mut addresses, mut listeners) = (BTreeMap::new(), BTreeMap::new());
        for id in 1..=size {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.insert(id, listener.local_addr().unwrap());
            listeners.insert(id, listener);
        }
        let tuning = Tuning {
            // Debug builds on a busy machine: elect only when a leader is really gone.
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1000),
            wal_segment_bytes: 1 << 20,
            ..Tuning::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let walls = (1..=size).map(|id| (id, WallClock::default())).collect();
        Self { dir, addresses, listeners, running: BTreeMap::new(), walls, tuning }
    }

    pub fn peers(&self) -> BTreeMap<u64, String> {
        self.addresses.iter().map(|(id, address)| (*id, address.to_string())).collect()
    }

    pub fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub fn config(&self, id: u64) -> ReplicaConfig {
        ReplicaConfig {
            joined: false,
            advertise_api: format!("http://replica-{id}"),
            wall: self.walls[&id].clone(),
            tuning: self.tuning.clone(),
            ..ReplicaConfig::new(id, self.data(id), self.addresses[&id], self.peers())
        }
    }

    pub async fn start(&mut self, id: u64) {
        let replica = self.try_start(self.config(id)).await.unwrap();
        self.running.insert(id, replica);
    }

    /// Starts a replica; waits until a stopped one has released its files and its port.
    pub async fn try_start(&mut self, config: ReplicaConfig) -> Result<Replica, StartError> {
        let deadline = soon();
        let mut clock = tokio::time::interval(Duration::from_millis(20));
        loop {
            clock.tick().await;
            let started = match self.listeners.remove(&config.id) {
                Some(listener) => Replica::start_on(config.clone(), listener).await,
                None => Replica::start(config.clone()).await,
            };
            match started {
                Err(StartError::Listen { .. } | StartError::Wal(WalError::Locked { .. }))
                    if Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    pub async fn started(size: u64) -> Self {
        let mut cluster = Self::new(size).await;
        for id in 1..=size {
            cluster.start(id).await;
        }
        cluster.ready().await;
        cluster
    }

    pub async fn ready(&self) {
        for replica in self.running.values() {
            tokio::time::timeout(PATIENCE, replica.health().wait_ready()).await.unwrap().unwrap();
        }
    }

    pub async fn stop(&mut self, id: u64) {
        self.running.remove(&id).unwrap().shutdown().await;
    }

    pub fn on(&self, id: u64) -> &Replica {
        &self.running[&id]
    }

    /// The leader, once all running replicas agree on it.
    pub async fn leader(&self) -> u64 {
        eventually("a leader", || {
            let mut leaders =
                self.running.values().map(|replica| replica.members().status().leader);
            let leader = leaders.next()??;
            let agreed = leaders.all(|other| other == Some(leader));
            (agreed && self.running.contains_key(&leader)).then_some(leader)
        })
        .await
    }

    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.running.keys().copied().find(|id| *id != leader).unwrap()
    }

    /// Waits until all running replicas have the same revision and digest.
    pub async fn converge(&self) {
        eventually("equal digests", || {
            let mut ends = self
                .running
                .values()
                .map(|replica| replica.with_state(|state| (state.revision(), state.digest())));
            let first = ends.next()?;
            ends.all(|other| other == first).then_some(())
        })
        .await;
    }

    pub async fn end(mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}

impl Cluster {
    /// Sets a replica's clock ahead of the true time.
    pub fn set_clock(&self, id: u64, ahead_ms: i64) {
        self.walls[&id].ahead.store(ahead_ms * 1_000, Ordering::Relaxed);
    }

    /// Waits until a replica's clock status satisfies a condition.
    pub async fn clocks(
        &self,
        id: u64,
        what: &str,
        so: impl Fn(&ClocksStatus) -> bool,
    ) -> ClocksStatus {
        let known = || Some(self.on(id).clocks().status()).filter(|clocks| so(clocks));
        eventually(what, known).await
    }
}

const TOPOLOGY: &str = r#"{"networks": [{"name": "net", "cidr": "10.0.0.0/16"}],
    "topologies": [{"networks": ["net"], "map": [{"groups": []}]}]}"#;

pub async fn say(replica: &Replica, command: Command) -> Result<Outcome, ProposeError> {
    let proposals = vec![Proposal { actor: Actor::from("test"), command }];
    replica.propose(proposals, soon()).await.map(|mut outcomes| outcomes.remove(0))
}

pub async fn done(replica: &Replica, command: Command) {
    say(replica, command).await.unwrap().result.unwrap();
}

pub fn allocate(name: &str, ip: Option<IpAddr>) -> Command {
    Command::AllocateAddress(AllocateAddress {
        name: name.into(),
        host: "h1".into(),
        tenant: "t".into(),
        segment: "s".into(),
        network: None,
        ip,
    })
}

/// Creates version 2, a topology, a host, and some addresses.
pub async fn populate(replica: &Replica, addresses: usize) {
    done(replica, Command::RaiseVersion(RaiseVersion { version: 2 })).await;
    done(replica, Command::SetTopology(serde_json::from_str(TOPOLOGY).unwrap())).await;
    let host = r#"{"name": "h1", "ip": "192.168.0.1"}"#;
    let host: HostSpec = serde_json::from_str(host).unwrap();
    done(replica, Command::AddHost(host)).await;
    for n in 0..addresses {
        done(replica, allocate(&format!("a{n}"), None)).await;
    }
}

/// Takes a backup of a replica's current state.
pub fn backup(replica: &Replica, path: &Path, records: bool) -> State {
    let state = replica.state();
    let origin = origin(replica.cluster_id(), replica.id(), false);
    let take = Take::begin(&state, replica.history().clone(), origin, records).unwrap();
    file::write(path, take).unwrap();
    state
}

/// A cluster whose directories are restored from a file.
pub async fn restored(path: &Path, size: u64) -> (Cluster, Vec<Restoration>) {
    let mut cluster = Cluster::new(size).await;
    let fill = |id| restore(&cluster.config(id), path).unwrap().unwrap();
    let restorations = (1..=size).map(fill).collect();
    for id in 1..=size {
        cluster.start(id).await;
    }
    cluster.ready().await;
    (cluster, restorations)
}
