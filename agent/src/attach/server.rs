//! The server for the plugin, on the agent's socket.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use romana_client::Client;
use romana_daemon::Tasks;
use romana_daemon::durable::DurableError;
use romana_daemon::problems::Problems;
use romana_daemon::tasks::TaskError;
use rtnetlink::Handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::heal::Healer;
use super::remove::Releaser;
use super::report::Reporter;
use super::reserve::Reserve;
use super::{AttachConfig, Attacher, AttachmentStore, Unable, code, failed, heal, remove, report};
use crate::config::Config;
use crate::enrol::EnrolmentState;
use crate::follow::Seen;
use crate::ipc::{FRAME_BYTES_MAX, Failed, Reply, Request};
use crate::kernel::taken::Taken;
use crate::policy::PolicyStatus;
use crate::policy::gate::EnforcerHandle;

/// Timeout for reading a request.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for an operation; runtimes give up after some minutes.
const WORK_TIMEOUT: Duration = Duration::from_secs(60);

/// The agent cannot serve the plugin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen at {path}")]
    Socket {
        path: String,
        #[source]
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("another agent listens at {path}: stop it, or choose another --socket")]
    Taken { path: String },
    #[error(transparent)]
    Store(#[from] DurableError),
}

/// Channels to and from other parts of the agent.
pub struct News {
    /// Names and addresses that were removed from the kernel.
    pub taken: Arc<Taken>,
    /// Whether this agent is the accepted one of its host.
    pub enrolment_state: watch::Receiver<EnrolmentState>,
    /// State of policy enforcement.
    pub policy: watch::Receiver<Option<PolicyStatus>>,
    /// Why no ADD can succeed.
    pub unable: watch::Sender<Option<Unable>>,
}

/// The plugin's server, ready to run.
pub struct Server {
    listener: UnixListener,
    attacher: Arc<Attacher>,
    taken: Arc<Taken>,
}

/// Creates the socket and opens the attachment store.
///
/// # Errors
/// [`ServeError`].
pub async fn open(
    config: &Config,
    client: Client,
    seen: watch::Receiver<Seen>,
    handle: Handle,
    gate: EnforcerHandle,
    news: News,
) -> Result<Server, ServeError> {
    let config = AttachConfig::from(config);
    let listener = listen(&config.socket).await?;
    let attacher = Arc::new(Attacher {
        store: AttachmentStore::open(&config.state_dir)?,
        reserve: Reserve::open(&config.state_dir)?,
        config,
        client,
        seen,
        handle,
        gate,
        busy: Mutex::default(),
        mtu: Mutex::default(),
        spool: tokio::sync::Mutex::default(),
        released: Notify::new(),
        changed: Notify::new(),
        enrolment_state: news.enrolment_state,
        policy: news.policy,
        unable: news.unable,
        exhausted: Mutex::default(),
    });
    Ok(Server { listener, attacher, taken: news.taken })
}

impl Server {
    /// Serves the plugin and reconciles attachments until `stop`.
    ///
    /// # Errors
    /// [`TaskError`] if a part died.
    pub async fn run(self, problems: Problems, stop: CancellationToken) -> Result<(), TaskError> {
        let Self { listener, attacher, taken } = self;
        attacher.undo_unfinished().await;
        let mut tasks = Tasks::new(stop.clone());
        tasks.spawn_job("recover", Arc::clone(&attacher).begin(stop.clone()));
        tasks.spawn("ability", Arc::clone(&attacher).watch_ability(stop.clone()));
        tasks.reconcile(Releaser(Arc::clone(&attacher)), remove::SCHEDULE, &problems);
        tasks.reconcile(Reporter::new(Arc::clone(&attacher)), report::SCHEDULE, &problems);
        tasks.reconcile(Healer::new(Arc::clone(&attacher), taken), heal::SCHEDULE, &problems);
        let conversations = TaskTracker::new();
        let early = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            error = tasks.first_end() => Some(error),
            () = converse_all(listener, attacher, conversations.clone()) => None,
        };
        conversations.close();
        conversations.wait().await;
        let stopped = tasks.stop_all().await;
        early.map_or(stopped, Err)
    }
}

/// Accepts connections of the plugin until it is dropped.
async fn converse_all(listener: UnixListener, attacher: Arc<Attacher>, tracker: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let attacher = Arc::clone(&attacher);
                tracker.spawn(async move {
                    if let Err(error) = attacher.converse(stream).await {
                        tracing::debug!(%error, "connection of the plugin failed");
                    }
                });
            }
            // Pause on errors such as running out of file descriptors, instead of spinning.
            Err(error) => {
                tracing::warn!(%error, "accept failed on the CNI socket");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Creates the socket, accessible to root only. A socket without a listener is
/// left over from an earlier agent.
async fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let shown = path.display().to_string();
    let socket_error = |source| ServeError::Socket { path: shown.clone(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(socket_error)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(ServeError::Taken { path: shown });
    }
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(socket_error(error));
    }
    let listener = UnixListener::bind(path).map_err(socket_error)?;
    let only_root = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, only_root).map_err(socket_error)?;
    Ok(listener)
}

impl Attacher {
    /// Handles one request. The operation continues if the plugin disconnects; a DEL undoes it.
    async fn converse(self: &Arc<Self>, mut stream: UnixStream) -> io::Result<()> {
        let request = timeout(ASK_TIMEOUT, receive(&mut stream)).await??;
        let reply = match serde_json::from_slice::<Request>(&request) {
            Ok(request) => self.answer(request).await,
            Err(error) => {
                let details =
                    "plugin and agent are of different releases: install the plugin again";
                Reply::Failed(failed(code::UNSUPPORTED, error.to_string(), details))
            }
        };
        let mut frame = Vec::new();
        crate::ipc::send(&mut frame, &reply)?;
        timeout(ASK_TIMEOUT, stream.write_all(&frame)).await?
    }

    async fn answer(self: &Arc<Self>, request: Request) -> Reply {
        let attacher = Arc::clone(self);
        // Not cancelled on timeout: an operation finishes or is undone.
        let work = tokio::spawn(async move { attacher.dispatch(request).await });
        let done = match timeout(WORK_TIMEOUT, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(failed(code::IO, format!("the agent failed: {error}"), "")),
            Err(_) => Err(failed(code::AGAIN, format!("not done within {WORK_TIMEOUT:?}"), "")),
        };
        done.unwrap_or_else(Reply::Failed)
    }

    async fn dispatch(self: &Arc<Self>, request: Request) -> Result<Reply, Failed> {
        match request {
            Request::Add(add) => {
                // A plugin that gave up during start-up may have spooled a DEL since.
                self.take_spool().await;
                return self.add(&add).await.map(Reply::Added);
            }
            Request::Del { key, network } => self.del(&key, &network).await?,
            Request::Check { key, netns, addresses, .. } => {
                self.check(&key, &netns, &addresses).await?;
            }
            Request::Gc { network, valid } => {
                let valid: BTreeSet<_> = valid.into_iter().collect();
                self.gc(&network, &valid).await?;
            }
            Request::Status { .. } => self.status()?,
        }
        Ok(Reply::Done {})
    }
}

async fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}
