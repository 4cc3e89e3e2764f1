//! Starts the parts of the server; `romana_daemon` supervises and stops them.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use romana_client::mirror::{Mirror, Seen};
use romana_daemon::error::AnyError;
use romana_daemon::problems::Problems;
use romana_daemon::{Tasks, durable, listener, probe};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::forward::Forwarder;
use crate::http::DnsProbe;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::serve::limit::Limiter;
use crate::serve::tcp::{self, Connections};
use crate::serve::{Server, udp};
use crate::source::Status;
use crate::zone::Services;

/// Copies of what the sources said, in the state directory.
const FEED_FILE: &str = "feed";
#[cfg(feature = "kubernetes")]
const SERVICES_FILE: &str = "services";
const LOCK_FILE: &str = "lock";
/// Questions that may wait for upstreams.
const WAITING_MAX: usize = 16_384;

/// The program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use {path}")]
    StateDir { path: String, source: io::Error },
    /// Another one would overwrite its files.
    #[error("another romana-dns uses {path}: stop it, or choose another --state-dir")]
    Locked { path: String },
    #[error("cannot answer at {address} by {transport}")]
    Listen { address: SocketAddr, transport: &'static str, source: io::Error },
}

/// The sockets at one address.
struct Sockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

/// Runs until `tasks` are stopped.
///
/// # Errors
/// Start-up failed, or a task died.
pub async fn run(config: Config, mut tasks: Tasks) -> Result<(), AnyError> {
    let (stop, problems, status) = (tasks.stop(), Problems::default(), Arc::new(Status::default()));
    let _lock = lock(&config.state_dir)?;
    durable::remove_leftovers(&config.state_dir, Duration::ZERO)?;
    let health = listener::bind(config.metrics)?;
    let mut sockets = Vec::new();
    for address in &config.listen {
        sockets.push(bind(*address).await?);
    }
    let services = follow_kubernetes(&config, &mut tasks, &status, &problems)?;
    let feed = follow_feed(&config, &mut tasks)?;
    let metrics = Arc::new(Metrics::default());
    let forwards = !config.upstreams.is_empty() || !config.stub_domains.is_empty();
    let forwarder = forwards.then(|| {
        let (upstreams, stubs) = (&config.upstreams, &config.stub_domains);
        let (cache, random_case) = (config.cache, config.random_case);
        Arc::new(Forwarder::new(upstreams, stubs, cache, random_case, Arc::clone(&metrics)))
    });
    if let Some(forwarder) = &forwarder {
        tasks.spawn("upstreams", Arc::clone(forwarder).check(stop.clone()));
    }
    let server = Arc::new(Server {
        settings: config.settings.clone(),
        services,
        feed,
        forwarder,
        allow: config.allow.clone(),
        limiter: Mutex::new(Limiter::new(config.rate)),
        metrics,
        turn: AtomicUsize::new(0),
    });
    serve(&config, &mut tasks, &server, sockets);
    let probe = DnsProbe { server, status, problems };
    tasks.spawn("health", probe::serve(health, probe, stop));
    let (zone, upstreams) = (&config.settings.zone, config.upstreams.len());
    tracing::info!(%zone, upstreams, metrics = %config.metrics, "DNS server started");
    Ok(tasks.run().await?)
}

/// Starts a task for each processor and UDP socket, and one for each TCP listener.
fn serve(config: &Config, tasks: &mut Tasks, server: &Arc<Server>, sockets: Vec<Sockets>) {
    let waiting = Arc::new(Semaphore::new(WAITING_MAX));
    let connections = Arc::new(Connections::new(config.connections));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    for Sockets { udp, tcp } in sockets {
        if let Ok(address) = udp.local_addr() {
            tracing::info!(%address, "answering by UDP and TCP");
        }
        for _ in 0..workers {
            let (socket, server, waiting) =
                (Arc::clone(&udp), Arc::clone(server), Arc::clone(&waiting));
            tasks.spawn("udp", udp::serve(socket, server, waiting, tasks.stop()));
        }
        let (server, connections) = (Arc::clone(server), Arc::clone(&connections));
        let waiting = Arc::clone(&waiting);
        tasks.spawn("tcp", tcp::serve(tcp, server, connections, waiting, tasks.stop()));
    }
}

/// Binds UDP and TCP to the same address. Port 0: any that both can have.
async fn bind(address: SocketAddr) -> Result<Sockets, StartError> {
    const TRIES: usize = 16;
    let failed = |transport| move |source| StartError::Listen { address, transport, source };
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        let udp = UdpSocket::bind(address).await.map_err(failed("UDP"))?;
        let chosen = udp.local_addr().map_err(failed("UDP"))?;
        match TcpListener::bind(chosen).await {
            Ok(tcp) => return Ok(Sockets { udp: Arc::new(udp), tcp }),
            Err(_) if tries > 0 => {}
            Err(source) => return Err(failed("TCP")(source)),
        }
    }
}

/// Creates the state directory if necessary, and locks it. The kernel releases the lock when the process ends.
fn lock(dir: &Path) -> Result<File, StartError> {
    let path = || dir.display().to_string();
    let unusable = |source| StartError::StateDir { path: path(), source };
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK_FILE));
    let lock = lock.map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked { path: path() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

#[cfg(feature = "kubernetes")]
fn follow_kubernetes(
    config: &Config,
    tasks: &mut Tasks,
    status: &Arc<Status>,
    problems: &Problems,
) -> Result<Option<watch::Receiver<Option<Services>>>, AnyError> {
    use romana_apiserver::Access;

    use crate::source::kubernetes::Source;

    let Some(kubernetes) = &config.kubernetes else { return Ok(None) };
    let access = kubernetes.kubeconfig.clone().map_or(Access::InCluster, Access::Kubeconfig);
    let file = config.state_dir.join(SERVICES_FILE);
    let source = Source::open(access, &file, Arc::clone(status), problems.clone())?;
    let services = source.services();
    tasks.spawn("kubernetes", source.run(tasks.stop()));
    Ok(Some(services))
}

#[cfg(not(feature = "kubernetes"))]
fn follow_kubernetes(
    _: &Config,
    _: &mut Tasks,
    _: &Arc<Status>,
    _: &Problems,
) -> Result<Option<watch::Receiver<Option<Services>>>, AnyError> {
    Ok(None)
}

fn follow_feed(
    config: &Config,
    tasks: &mut Tasks,
) -> Result<Option<watch::Receiver<Seen<Names>>>, AnyError> {
    if config.servers.is_empty() {
        return Ok(None);
    }
    let mirror = Mirror::open(Names::default(), &config.state_dir.join(FEED_FILE), ())?;
    let seen = mirror.seen();
    tasks.spawn("feed", mirror.run(config.client()?, tasks.stop()));
    Ok(Some(seen))
}
