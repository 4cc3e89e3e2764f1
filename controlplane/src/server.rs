//! The top level of `romanad`: replica, API, connections, and a clean shutdown.
//!
//! ```text
//!   run: bootstrap ─► bind ─► disk space ─► Replica::start ─► accept connections … until SIGTERM
//!        or a fault (a full disk: again from "disk space")
//!   end: stop accepting ─► drain requests ─► close the feed (last bookmarks) ─► Replica::shutdown
//! ```
//!
//! Limits of one connection are in [`romana_daemon::listener`], limits of all connections in
//! `crate::budget`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use romana_daemon::Tasks;
use romana_daemon::error::chain;
use romana_daemon::listener::{self, Connections, Plain};
use romana_daemon::owner::{self, Program};
use romana_daemon::tasks::TaskError;
use romana_replica::backup::{RestoreError, file, is_claimed};
use romana_replica::purge;
use romana_replica::reseed;
use romana_replica::{FaultKind, Replica, ReplicaConfig, StartError};
use romana_storage::disk::{self, SpaceGuard};
use romana_storage::wal::WalError;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::Api;
use crate::bootstrap::{self, BootstrapError};
use crate::config::Config;
use crate::connection::on_bad_head;
use crate::join::{self, JoinError};
use crate::kubernetes::{AccessError, Parts};
use crate::tasks as leader_tasks;
use crate::waiting::restore::before_start;
use crate::waiting::room;

/// Time for the active requests to finish at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the connections to end after the feed is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a leadership transfer before a replica leaves.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Time for a replica that was stopped in this process to release its files and its port.
const LET_GO: Duration = Duration::from_secs(10);
/// How often the drain and the replica's health are checked.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Why the daemon fails.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The initial topology is invalid.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The API's address cannot be bound.
    #[error("cannot listen on {address} for the API")]
    Listen { address: SocketAddr, source: io::Error },
    /// There are no credentials for the Kubernetes API server.
    #[error(transparent)]
    Kubernetes(#[from] AccessError),
    /// The cluster did not accept this replica.
    #[error("this replica does not join")]
    Join(#[source] Box<JoinError>),
    /// An agent keeps its state in the directory, or it contains something other than files.
    #[error(transparent)]
    Unfit(#[from] owner::Unfit),
    /// The data directory could not be restored from a backup.
    #[error("nothing was restored")]
    Restore(#[source] Box<RestoreError>),
    /// The replica cannot start.
    #[error("the replica does not start")]
    Start { id: u64, source: Box<StartError> },
    /// The replica stopped because its data is damaged.
    #[error("the replica has stopped: {why}")]
    Damaged {
        id: u64,
        /// What is damaged.
        why: String,
    },
    /// The replica stopped with a fault.
    #[error("the replica has stopped: {0}")]
    Fault(String),
    /// One of its tasks ended unexpectedly.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl ServerError {
    /// What the operator can do about it, where the error does not say so itself.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Start { id, source } => source.advice(*id),
            Self::Damaged { id, .. } => Some(reseed(*id)),
            _ => None,
        }
    }
}

/// How a running replica ended.
enum End {
    /// Stopped on request.
    Stopped,
    /// The disk is full, for this reason.
    Full(String),
}

/// Runs a replica and its API until `stop`, then stops cleanly. While the disk has no free space, no
/// replica runs, and every request gets an error that says so.
///
/// # Errors
/// [`ServerError`]: the replica could not start, or stopped with a fault.
pub async fn run(mut config: Config, stop: CancellationToken) -> Result<(), ServerError> {
    owner::check(&config.data_dir, Program::Replica)?;
    check_kubernetes(&config).await?;
    let joined = tokio::select! {
        joined = join::prepare(&mut config) => joined,
        () = stop.cancelled() => return Ok(()),
    };
    joined.map_err(|error| ServerError::Join(Box::new(error)))?;
    let founds = config.join.is_empty();
    let initial = if founds { bootstrap::initial_proposals(&config).await? } else { Vec::new() };
    let listen_error = |source| ServerError::Listen { address: config.listen, source };
    let listener = listener::bind(config.listen).map_err(|error| listen_error(error.source))?;
    let mut listener = Some(listener.into_std().map_err(listen_error)?);
    let mut room = SpaceGuard::new(config.data_dir.clone(), config.disk_reserve_bytes);
    let mut lives = 0;
    while let Some(kept) = &listener {
        if !room::wait(&mut room, kept, &stop).await {
            break;
        }
        let again = kept.try_clone().and_then(TcpListener::from_std).map_err(listen_error)?;
        let patience = if lives == 0 { Duration::ZERO } else { LET_GO };
        lives += 1;
        let life = Life { config: &config, initial: initial.clone(), room: &room, patience };
        match life.serve(again, &mut listener, &stop).await? {
            End::Stopped => break,
            End::Full(why) => room.ran_out(why),
        }
    }
    Ok(())
}

/// One replica in this process: another one follows when a full disk has room again.
struct Life<'a> {
    config: &'a Config,
    initial: Vec<romana_statemachine::Proposal>,
    room: &'a SpaceGuard,
    /// Time for the previous one to release its files and its port.
    patience: Duration,
}

impl Life<'_> {
    /// Runs the replica until it ends. `kept` is the socket of `listener` for the next life; if there is none, it is
    /// closed before the requests are drained, so that new connections are refused instead of waiting.
    async fn serve(
        self,
        listener: TcpListener,
        kept: &mut Option<std::net::TcpListener>,
        stop: &CancellationToken,
    ) -> Result<End, ServerError> {
        let Self { config, initial, room, patience } = self;
        let listen_error = |source| ServerError::Listen { address: config.listen, source };
        let address = listener.local_addr().map_err(listen_error)?;
        let replica = replica_config(config, initial, address);
        let (restore, wait) = (config.restore.as_deref(), config.await_restore);
        let filled = before_start(&replica, restore, wait, &listener, stop).await;
        filled.map_err(|error| ServerError::Restore(Box::new(error)))?;
        if stop.is_cancelled() {
            return Ok(End::Stopped);
        }
        let started = tokio::select! {
            started = start(replica, patience) => started,
            () = stop.cancelled() => return Ok(End::Stopped),
        };
        let replica = match started {
            Ok(replica) => replica,
            Err(error) if disk::is_full(&error) => return Ok(End::Full(chain(&error))),
            Err(error) => {
                return Err(ServerError::Start { id: config.id, source: Box::new(error) });
            }
        };
        let kubernetes = Parts::new(config.kubernetes.as_ref());
        if let Some(pods) = kubernetes.pods {
            replica.agents().know_pods(pods);
        }
        let api = Api::new(replica.clone(), config.request_timeout, kubernetes.collectors);
        info!(id = config.id, api = %address, peers = %config.peer_listen, "replica started");
        let server = Server::new(api, config.connections_max);
        let mut tasks = Tasks::new(CancellationToken::new());
        let leading = tasks.stop();
        tasks.spawn("connections", server.clone().accept_until(listener, leading.clone()));
        let (claiming, until) = (replica.clone(), leading.clone());
        tasks.spawn("claim", async move { claiming.members().keep_claim(until).await });
        tasks.spawn("retention", purge::keep(replica.clone(), leading.clone()));
        let mut all = leader_tasks::standard(config.service_cluster_ip_range.clone());
        all.extend(kubernetes.task);
        tasks.spawn("leader tasks", leader_tasks::run(replica.clone(), all, leading));
        let end = tokio::select! {
            end = end_of_life(&replica, room, stop) => end,
            died = tasks.first_end() => Err(died.into()),
        };
        match &end {
            Ok(_) => info!("stopping"),
            Err(fault) => error!(%fault, "ending"),
        }
        tasks.stop().cancel();
        if !matches!(end, Ok(End::Full(_))) {
            *kept = None;
        }
        server.drain().await;
        let stopped = tasks.stop_all().await;
        replica.shutdown().await;
        end.and_then(|end| stopped.map(|()| end).map_err(ServerError::from))
    }
}

/// Checks all of the backup that the replica would begin with. Not if the data directory has an owner: the file may be
/// gone after the restore. Blocks.
///
/// # Errors
/// [`ServerError::Restore`]: the file cannot be read, or is not a whole backup.
pub fn check_backup(config: &Config) -> Result<(), ServerError> {
    let Some(file) = &config.restore else { return Ok(()) };
    let check = || -> Result<(), RestoreError> {
        if !is_claimed(&config.data_dir)? {
            file::read(file, |_| Ok::<_, RestoreError>(()))?;
        }
        Ok(())
    };
    check().map_err(|error| ServerError::Restore(Box::new(error)))
}

/// Checks the credentials for the Kubernetes API server, without connecting to it.
///
/// # Errors
/// They are missing or cannot be used.
pub async fn check_kubernetes(config: &Config) -> Result<(), ServerError> {
    match &config.kubernetes {
        Some(access) => access.client().await.map(|_| ()).map_err(ServerError::from),
        None => Ok(()),
    }
}

/// Waits until the replica must stop, and returns why.
async fn end_of_life(
    replica: &Replica,
    room: &SpaceGuard,
    stop: &CancellationToken,
) -> Result<End, ServerError> {
    tokio::select! {
        () = stop.cancelled() => {
            hand_over(replica).await;
            Ok(End::Stopped)
        }
        (kind, why) = replica.health().wait_fault() => match kind {
            FaultKind::DiskFull => Ok(End::Full(why)),
            FaultKind::OlderCopy => {
                // The replica takes no part in the cluster, but keeps running to report the reason.
                stop.cancelled().await;
                Err(ServerError::Fault(why))
            }
            FaultKind::Damaged => Err(ServerError::Damaged { id: replica.id(), why }),
            FaultKind::Other => Err(ServerError::Fault(why)),
        },
        short = room.low() => {
            error!(%short, "leaving before the disk is full");
            hand_over(replica).await;
            Ok(End::Full("it left before the disk was full".into()))
        }
    }
}

fn replica_config(
    config: &Config,
    initial: Vec<romana_statemachine::Proposal>,
    address: SocketAddr,
) -> ReplicaConfig {
    let advertised = config.advertise_api.clone().unwrap_or_else(|| address.to_string());
    let mut replica = ReplicaConfig::new(
        config.id,
        config.data_dir.clone(),
        config.peer_listen,
        config.initial_cluster.clone(),
    );
    replica.advertise_peer.clone_from(&config.advertise_peer);
    replica.advertise_api = format!("http://{advertised}");
    replica.cluster_token.clone_from(&config.cluster_token);
    replica.joined = !config.join.is_empty();
    replica.initial = initial;
    replica.tuning.feed_bytes = config.feed_memory_bytes;
    replica
}

/// Starts a replica; retries within `patience` while a stopped one still holds its files or its port.
async fn start(config: ReplicaConfig, patience: Duration) -> Result<Replica, StartError> {
    let deadline = Instant::now() + patience;
    loop {
        match Replica::start(config.clone()).await {
            Err(
                StartError::Wal(WalError::Locked { .. })
                | StartError::Io { .. }
                | StartError::Listen { .. },
            ) if Instant::now() < deadline => {
                tokio::time::sleep(WATCH_INTERVAL).await;
            }
            started => return started,
        }
    }
}

/// Hands over leadership before this replica leaves, so that the cluster needs no election timeout.
async fn hand_over(replica: &Replica) {
    if replica.leadership().watch().borrow().is_none() {
        return;
    }
    match replica.leadership().hand_over(Instant::now() + HAND_OVER).await {
        Ok(()) => info!("leadership handed over"),
        Err(error) => info!(%error, "cannot transfer leadership"),
    }
}

/// Serves the connections of an API.
#[derive(Clone)]
pub struct Server {
    api: Api,
    connections: Connections,
}

impl Server {
    /// A server for an API with a limit of concurrent connections.
    #[must_use]
    pub fn new(api: Api, connections_max: usize) -> Self {
        let answers = on_bad_head(api.stamp_lines());
        let counters = api.metrics().connections().clone();
        Self { api, connections: Connections::new(connections_max, answers, counters) }
    }

    /// Accepts connections until `stop`.
    async fn accept_until(self, listener: TcpListener, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.accept(listener) => {}
        }
    }

    /// Accepts connections until the future is dropped or aborted.
    pub async fn accept(self, listener: TcpListener) {
        let (api, router) = (self.api.clone(), self.api.router());
        let service = move |_: &TcpStream| {
            let (api, routed) = (api.clone(), TowerToHyperService::new(router.clone()));
            service_fn(move |request: Request<Incoming>| {
                let (api, routed) = (api.clone(), routed.clone());
                async move {
                    match api.hot(&request) {
                        Some((at, row)) => Ok(api.answer(at, row, Vec::new(), request).await),
                        None => routed.call(request.map(Body::new)).await,
                    }
                }
            })
        };
        self.connections.accept(&listener, Plain, service).await;
    }

    /// Waits for active requests, closes the feed, then waits for the connections; each for a limited time.
    pub async fn drain(&self) {
        self.connections.finish();
        let drained = until(DRAIN_TIMEOUT, || self.api.active() == 0).await;
        self.api.close_feed();
        let closed = timeout(CLOSE_TIMEOUT, self.connections.closed()).await.is_ok();
        if !drained || !closed {
            warn!(requests = self.api.active(), connections = self.open(), "cutting connections");
        }
        self.connections.cut();
    }

    /// Number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.connections.open()
    }
}

/// Waits until a condition holds; returns whether it did so in time.
async fn until(timeout: Duration, so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    while !so() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
    true
}
