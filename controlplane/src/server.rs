//! `romanad` from top to bottom: replica, API, connections, and a clean end.
//!
//! ```text
//!   run: bootstrap ─► bind ─► room on the disk ─► Replica::start ─► accept connections … until SIGTERM
//!        or a fault (a full disk: from "room on the disk" again)
//!   end: stop accepting ─► drain requests ─► close the feed (last bookmarks) ─► Replica::shutdown
//! ```
//!
//! What a connection may cost is bounded in [`crate::connection`], what all of them may in
//! `crate::budget`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use romana_daemon::owner::{self, Program};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::api::Api;
use crate::backup::waiting::before_start;
use crate::bootstrap::{self, BootstrapError};
use crate::config::Config;
use crate::connection::{Guarded, Stamp, http};
use crate::disk::{self, Room};
use crate::join::{self, JoinError};
use crate::raft::{FaultKind, Replica, ReplicaConfig, RestoreError, StartError};
use crate::wal::WalError;
use crate::{retention, tasks};

/// Bytes that the kernel keeps for a client that does not read; left to itself it takes megabytes.
const SEND_BUFFER_BYTES: u32 = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Time for the requests in progress when we stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the connections to end after the feed was closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for leadership to go over before a replica leaves.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Time for a replica that was stopped in this process to let go of its files and its port.
const LET_GO: Duration = Duration::from_secs(10);
/// Connections while there is no replica.
const PLAIN_CONNECTIONS_MAX: usize = 1024;
/// How often the end of a drain and the health of the replica are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Why the daemon ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No initial topology.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The API's address cannot be had.
    #[error("cannot listen on {address} for the API")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The cluster did not take this replica in.
    #[error("this replica does not join")]
    Join(#[source] Box<JoinError>),
    /// An agent keeps its state there.
    #[error(transparent)]
    Shared(#[from] owner::Shared),
    /// The data directory was not filled from a backup.
    #[error("nothing was restored")]
    Restore(#[source] Box<RestoreError>),
    /// The replica does not start.
    #[error("the replica does not start")]
    Start {
        /// Its id.
        id: u64,
        /// Why.
        source: Box<StartError>,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// The replica stopped itself.
    #[error("the replica has stopped: {0}")]
    Fault(String),
}

impl ServerError {
    /// What to do about it, where the error does not say so itself.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Start { id, source } => source.advice(*id),
            _ => None,
        }
    }
}

/// How a replica ended that could be started.
enum End {
    /// It was told to.
    Stopped,
    /// There is no room on the disk, for this reason.
    Full(String),
}

/// Runs a replica and its API until SIGTERM or SIGINT, then stops cleanly. While there is no room on
/// the disk there is no replica, and everybody is told so.
///
/// # Errors
/// [`ServerError`]: it did not start, or the replica stopped itself.
pub async fn run(mut config: Config) -> Result<(), ServerError> {
    let stop = stop_signal().map_err(ServerError::Signals)?;
    owner::check(&config.data_dir, Program::Replica)?;
    let joined = tokio::select! {
        joined = join::prepare(&mut config) => joined,
        () = stop.cancelled() => return Ok(()),
    };
    joined.map_err(|error| ServerError::Join(Box::new(error)))?;
    let founds = config.join.is_empty();
    let initial = if founds { bootstrap::initial_proposals(&config).await? } else { Vec::new() };
    let listen_error = |source| ServerError::Listen { address: config.listen, source };
    let listener = bind(config.listen).map_err(listen_error)?;
    let listener = listener.into_std().map_err(listen_error)?;
    let mut room = Room::new(config.data_dir.clone(), config.disk_reserve_bytes);
    let mut lives = 0;
    while room.wait(&listener, &stop).await {
        let again = listener.try_clone().and_then(TcpListener::from_std).map_err(listen_error)?;
        let patience = if lives == 0 { Duration::ZERO } else { LET_GO };
        lives += 1;
        match serve(&config, initial.clone(), again, &room, patience, &stop).await? {
            End::Stopped => break,
            End::Full(why) => room.ran_out(why),
        }
    }
    Ok(())
}

/// A listener whose connections keep no more unread bytes in the kernel than [`SEND_BUFFER_BYTES`].
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// One life of the replica.
async fn serve(
    config: &Config,
    initial: Vec<romana_statemachine::Proposal>,
    listener: TcpListener,
    room: &Room,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<End, ServerError> {
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
        Err(error) if disk::is_full(&error) => return Ok(End::Full(told(&error))),
        Err(error) => {
            return Err(ServerError::Start { id: config.id, source: Box::new(error) });
        }
    };
    let api = Api::new(replica.clone(), config.request_timeout);
    info!(id = config.id, api = %address, peers = %config.peer_listen, "replica started");
    let server = Server::new(api, config.connections_max);
    let accepting = tokio::spawn(server.clone().accept(listener));
    let leading = CancellationToken::new();
    let claim = tokio::spawn(replica.clone().keep_claim(leading.clone()));
    let keeping = tokio::spawn(retention::keep(replica.clone(), leading.clone()));
    let tasks = tokio::spawn(tasks::run(
        replica.clone(),
        tasks::standard(config.service_cluster_ip_range.clone()),
        leading.clone(),
    ));
    let end = end_of_life(&replica, room, stop).await;
    match &end {
        Ok(_) => info!("stopping"),
        Err(fault) => error!(%fault, "ending"),
    }
    accepting.abort();
    leading.cancel();
    server.drain().await;
    for (what, running) in [("leader tasks", tasks), ("retention", keeping), ("claim", claim)] {
        if let Err(error) = running.await {
            error!(%error, "{what} ended badly");
        }
    }
    replica.shutdown().await;
    end
}

/// Returns when the replica must not go on, and why.
async fn end_of_life(
    replica: &Replica,
    room: &Room,
    stop: &CancellationToken,
) -> Result<End, ServerError> {
    tokio::select! {
        () = stop.cancelled() => {
            hand_over(replica).await;
            Ok(End::Stopped)
        }
        (kind, why) = replica.wait_fault() => match kind {
            FaultKind::DiskFull => Ok(End::Full(why)),
            FaultKind::OlderCopy => {
                // It takes part in nothing. It stays to say why, wherever somebody looks.
                stop.cancelled().await;
                Err(ServerError::Fault(why))
            }
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

/// Starts a replica; within `patience` again while one that was stopped is still in the way.
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

/// An error and its causes.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Answers everybody by `router`, with the bounds of a connection, until `done`.
pub(crate) async fn serve_plainly(listener: TcpListener, router: Router, done: CancellationToken) {
    let permits = Arc::new(Semaphore::new(PLAIN_CONNECTIONS_MAX));
    let stamp: Stamp = Arc::new(|_| String::from("x-romana-revision: 0\r\n"));
    loop {
        let accepted = tokio::select! {
            () = done.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(WATCH_INTERVAL).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let (routed, done) = (TowerToHyperService::new(router.clone()), done.clone());
        let stamp = Arc::clone(&stamp);
        tokio::spawn(async move {
            let _permit = permit;
            let service =
                service_fn(move |request: Request<Incoming>| routed.call(request.map(Body::new)));
            let io = TokioIo::new(Guarded::new(stream, stamp));
            let connection = http().serve_connection(io, service);
            tokio::select! {
                () = done.cancelled() => {}
                served = connection => if let Err(error) = served {
                    debug!(%peer, %error, "connection ended");
                },
            }
        });
    }
}

/// Lets another replica lead before this one leaves, so that nobody waits for an election.
async fn hand_over(replica: &Replica) {
    if replica.leadership().borrow().is_none() {
        return;
    }
    match replica.hand_over(Instant::now() + HAND_OVER).await {
        Ok(()) => info!("leadership handed over"),
        Err(error) => info!(%error, "leadership was not handed over"),
    }
}

/// A token that is cancelled by the first SIGTERM or SIGINT.
fn stop_signal() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        cancel.cancel();
    });
    Ok(stop)
}

/// The connections of an API.
#[derive(Clone)]
pub struct Server {
    api: Api,
    router: Router,
    stamp: Stamp,
    permits: Arc<Semaphore>,
    connections_max: usize,
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    /// A server for an API that takes so many connections at the same time.
    #[must_use]
    pub fn new(api: Api, connections_max: usize) -> Self {
        Self {
            router: api.router(),
            stamp: api.stamp_lines(),
            api,
            permits: Arc::new(Semaphore::new(connections_max)),
            connections_max,
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Accepts connections until it is dropped or aborted.
    pub async fn accept(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    // Of the connection, or no descriptor left: neither is ours to end for.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.api.metrics().connection_refused();
            debug!(%peer, "too many connections, closing this one");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "connection is gone already");
            return;
        }
        tokio::spawn(self.clone().serve(stream, peer, permit));
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit) {
        self.api.metrics().connections().inc();
        let api = self.api.clone();
        let routed = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, routed) = (api.clone(), routed.clone());
            async move {
                match api.hot(&request) {
                    Some((at, row)) => Ok(api.answer(at, row, Vec::new(), request).await),
                    None => routed.call(request.map(Body::new)).await,
                }
            }
        });
        let stamp = Arc::clone(&self.stamp);
        let io = TokioIo::new(Guarded::new(stream, stamp));
        let mut connection = std::pin::pin!(http().serve_connection(io, service));
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection.as_mut() => served,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = served {
            debug!(%peer, %error, "connection ended");
        }
        self.api.metrics().connections().dec();
    }

    /// Lets requests in progress end, then the feed, then the connections; bounded in time.
    pub async fn drain(&self) {
        self.stopping.cancel();
        let drained = until(DRAIN_TIMEOUT, || self.api.active() == 0).await;
        self.api.close_feed();
        let closed = until(CLOSE_TIMEOUT, || self.open() == 0).await;
        if !drained || !closed {
            warn!(requests = self.api.active(), connections = self.open(), "cutting connections");
        }
        self.cut.cancel();
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.connections_max - self.permits.available_permits()
    }
}

/// Waits until something is so; whether it became so in time.
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
