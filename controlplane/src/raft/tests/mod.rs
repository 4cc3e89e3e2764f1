//! Replicas in one process, on loopback and real disks; and openraft's own suite for storage.

mod clocks;
mod cluster;
mod damage;
mod files;
mod hostile;
mod older;
mod restore;
mod retention;
mod storage;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use romana_statemachine::command::TenantSpec;
use romana_statemachine::{Actor, Command, Labels, Outcome, Proposal};
use romana_storage::wal::WalError;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{ProposeError, Replica, ReplicaConfig, StartError, Tuning, WallClock};

/// Longest any condition is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Waits until `condition` gives something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
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

fn tenant(name: &str) -> Proposal {
    let spec = TenantSpec { id: name.into(), labels: Labels::new() };
    Proposal { actor: Actor::from("test"), command: Command::CreateTenant(spec) }
}

/// Creates a tenant; again where the outcome is unknown, as it is idempotent.
async fn create(replica: &Replica, name: &str) -> Outcome {
    loop {
        match replica.propose(vec![tenant(name)], soon()).await {
            Ok(outcomes) => return outcomes.into_iter().next().unwrap(),
            Err(ProposeError::Unknown { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn has(replica: &Replica, name: &str) -> bool {
    replica.with_state(|state| state.tenant(&name.into()).is_some())
}

/// Three places for replicas: directories and addresses that stay the same over restarts.
pub(crate) struct Cluster {
    dir: TempDir,
    addresses: BTreeMap<u64, SocketAddr>,
    listeners: BTreeMap<u64, TcpListener>,
    pub(crate) running: BTreeMap<u64, Replica>,
    /// The machines' clocks, to set them wrong.
    walls: BTreeMap<u64, WallClock>,
    tuning: Tuning,
}

impl Cluster {
    async fn new(size: u64) -> Self {
        let (mut addresses, mut listeners) = (BTreeMap::new(), BTreeMap::new());
        for id in 1..=size {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.insert(id, listener.local_addr().unwrap());
            listeners.insert(id, listener);
        }
        let tuning = Tuning {
            // Debug builds on a busy machine: elections only when somebody is really gone.
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

    fn peers(&self) -> BTreeMap<u64, String> {
        self.addresses.iter().map(|(id, address)| (*id, address.to_string())).collect()
    }

    fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn config(&self, id: u64) -> ReplicaConfig {
        ReplicaConfig {
            joined: false,
            advertise_api: format!("http://replica-{id}"),
            wall: self.walls[&id].clone(),
            tuning: self.tuning.clone(),
            ..ReplicaConfig::new(id, self.data(id), self.addresses[&id], self.peers())
        }
    }

    async fn start(&mut self, id: u64) {
        let replica = self.try_start(self.config(id)).await.unwrap();
        self.running.insert(id, replica);
    }

    /// Starts a replica, waiting for a stopped one to let go of its files and its port.
    async fn try_start(&mut self, config: ReplicaConfig) -> Result<Replica, StartError> {
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

    pub(crate) async fn started(size: u64) -> Self {
        let mut cluster = Self::new(size).await;
        for id in 1..=size {
            cluster.start(id).await;
        }
        cluster.ready().await;
        cluster
    }

    async fn ready(&self) {
        for replica in self.running.values() {
            tokio::time::timeout(PATIENCE, replica.wait_ready()).await.unwrap().unwrap();
        }
    }

    async fn stop(&mut self, id: u64) {
        self.running.remove(&id).unwrap().shutdown().await;
    }

    pub(crate) fn on(&self, id: u64) -> &Replica {
        &self.running[&id]
    }

    /// The leader, when all who run agree on it.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("a leader", || {
            let mut leaders = self.running.values().map(|replica| replica.status().leader);
            let leader = leaders.next()??;
            let agreed = leaders.all(|other| other == Some(leader));
            (agreed && self.running.contains_key(&leader)).then_some(leader)
        })
        .await
    }

    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.running.keys().copied().find(|id| *id != leader).unwrap()
    }

    /// Waits until all who run have the same revision and digest.
    async fn converge(&self) {
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

    pub(crate) async fn end(mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}
