//! The agent's life: everything is started here, and stopped.
//!
//! ```text
//!   Following ──► seen ─┐
//!   netlink news ───────┼──► Router::pass: facts ─► plan ─► actual ─► diff ─► apply ──► status
//!   timer ──────────────┘
//!   Following ──► seen ─┬──► Enforcer::pass: compile ─► diff ─► ipset, iptables ──► status
//!   attach ─► Gate ─────┘
//!   romana-cni ──► socket ──► attach ──► ledger, log, kernel
//! ```
//! One code path for the first start, normal work, restart and repair. On SIGTERM everything stays in
//! the kernel.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use romana_client::{Client, ClientConfig};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::attach::{self, AttachConfig, Unable};
use crate::config::Config;
use crate::connections::{self, Forgotten};
use crate::copy::CopyError;
use crate::enrol::Enrolment;
use crate::follow::Following;
use crate::kernel::packet_filter::PacketFilter;
use crate::kernel::taken::Taken;
use crate::kernel::{KernelError, facts};
use crate::policy::enforce::enforcer;
use crate::router::Router;
use crate::state_dir::{StateDir, StateDirError};
use crate::status::Said;
use crate::{http, nat, pulse, register, sysctl};

const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);

/// The agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The copy of the view cannot be read.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// There is nobody to ask.
    #[error("the control plane cannot be reached as configured")]
    Client(#[from] romana_client::Error),
    /// The kernel does not talk to us.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The address for metrics is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The plugin cannot be served.
    #[error(transparent)]
    Attach(#[from] attach::ServeError),
    /// SIGTERM cannot be waited for.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
}

/// A connection to the kernel, in a task of its own.
fn netlink() -> Result<rtnetlink::Handle, KernelError> {
    let (connection, handle, _) =
        rtnetlink::new_connection_with_strict_check().map_err(KernelError::from)?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`DaemonError`]: it did not start.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let stop = stop_signal().map_err(DaemonError::Signals)?;
    let state_dir = StateDir::open(&config.state_dir, &config.socket)?;
    let (host, instance) = (config.host.clone(), state_dir.instance.clone());
    let enrolment = Arc::new(Enrolment::new(host, instance, config.takeover_after));
    let (release, released) = mpsc::unbounded_channel();
    let (forgetting, forgotten) = watch::channel(Forgotten::default());
    let following = Following::open(&config, release, forgotten.clone())?;
    let seen = following.seen();
    let client = client_for(&config, ClientConfig::new(config.servers.clone()).timeout)?;
    // A heartbeat that takes longer than this says nothing any more.
    let beating = client_for(&config, HEARTBEAT_TIMEOUT)?;
    let listener = listen(config.metrics).await?;

    let handle = netlink()?;
    let (wake, taken) = (Arc::new(Notify::new()), Arc::new(Taken::default()));
    let news = tokio::spawn(watch_kernel(Arc::clone(&wake), Arc::clone(&taken), stop.clone()));
    let (problems_of, attachments) = watch::channel(Vec::new());
    let (status, routes) = watch::channel(crate::status::Status::default());
    let problems = sysctl::provide(config.set_sysctls).into_iter();
    problems.for_each(|problem| tracing::warn!(problem, "this host does not forward"));
    let filter = PacketFilter::find(config.policy.backend).await;
    let (enforcer, gate, policy) = enforcer(config.policy.clone(), seen.clone(), filter.clone());
    let router = Router::new(&config, handle.clone(), seen.clone(), status);
    let (unable_of, unable) = watch::channel(Some(Unable::new("the agent is starting".into())));
    let standing = enrolment.standing();
    let heard = attach::News {
        taken,
        problems: problems_of,
        standing: standing.clone(),
        policy: policy.clone(),
        unable: unable_of,
    };
    let (settings, asking, stopped) = (attach_config(&config), client.clone(), stop.clone());
    let attaching =
        attach::serve(settings, asking, seen.clone(), handle.clone(), gate, heard, stopped);
    let attaching = tokio::spawn(attaching);
    let said = Said {
        routes,
        policy,
        attachments,
        forgotten,
        standing,
        unable,
        seen: seen.clone(),
        state_dir: config.state_dir.clone(),
    };
    let tasks = [
        tokio::spawn(following.run(client.clone(), stop.clone())),
        tokio::spawn(router.run(wake, stop.clone())),
        tokio::spawn(enforcer.run(stop.clone())),
        tokio::spawn(nat::keep(config.nat.clone(), seen.clone(), stop.clone())),
        tokio::spawn(connections::forget(released, forgetting, stop.clone())),
        tokio::spawn(register::keep(
            config.clone(),
            Arc::clone(&enrolment),
            client,
            handle,
            seen.clone(),
            stop.clone(),
        )),
        tokio::spawn(pulse::beat(enrolment, beating, said.clone(), stop.clone())),
        tokio::spawn(http::serve(listener, said, filter, stop.clone())),
    ];
    tracing::info!(host = %config.host, metrics = %config.metrics, "agent started");
    let ended = live(attaching, tasks, stop).await;
    news.abort();
    drop(state_dir);
    ended
}

/// Waits for the end, and ends all tasks in turn.
async fn live(
    mut attaching: JoinHandle<Result<(), attach::ServeError>>,
    tasks: impl IntoIterator<Item = JoinHandle<()>>,
    stop: CancellationToken,
) -> Result<(), DaemonError> {
    let ended = tokio::select! {
        () = stop.cancelled() => None,
        ended = &mut attaching => Some(ended),
    };
    stop.cancel();
    tracing::info!("stopping; everything stays in the kernel");
    end_all(tasks).await;
    match ended {
        Some(ended) => joined(ended),
        None => joined(attaching.await),
    }
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, DaemonError> {
    let error = |source| DaemonError::Listen { address, source };
    TcpListener::bind(address).await.map_err(error)
}

fn client_for(config: &Config, timeout: Duration) -> Result<Client, romana_client::Error> {
    let actor = format!("agent:{}", config.host);
    Client::new(ClientConfig { actor, timeout, ..ClientConfig::new(config.servers.clone()) })
}

fn attach_config(config: &Config) -> AttachConfig {
    AttachConfig {
        host: config.host.clone(),
        socket: config.socket.clone(),
        state_dir: config.state_dir.clone(),
        mtu: config.mtu,
        route_table: config.route_table,
    }
}

async fn end_all(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task ended badly");
        }
    }
}

fn joined(
    ended: Result<Result<(), attach::ServeError>, tokio::task::JoinError>,
) -> Result<(), DaemonError> {
    match ended {
        Ok(ended) => Ok(ended?),
        Err(error) => {
            tracing::error!(%error, "the plugin's server ended badly");
            Ok(())
        }
    }
}

/// Without news the timer is left.
async fn watch_kernel(wake: Arc<Notify>, taken: Arc<Taken>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        watched = facts::watch(&wake, &taken) => {
            if let Err(error) = watched {
                tracing::warn!(%error, "no news from the kernel: looking on a timer only");
            }
        }
    }
}

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
