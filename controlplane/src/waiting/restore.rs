//! A replica that waits for a backup: it answers health checks and accepts `POST /v1/restore`. Once its
//! data directory is filled, it starts normally, on the same listener.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use romana_api::backup::Restoration;
use romana_api::health::Health;
use romana_daemon::error::chain;
use romana_daemon::listener::{Connections, Counters, Plain};
use romana_replica::ReplicaConfig;
use romana_replica::backup::file::FileError;
use romana_replica::backup::{RestoreError, UPLOAD, is_claimed, restore};
use romana_statemachine::Revision;
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::check_origin;
use crate::connection::{no_replica, on_bad_head};
use crate::error::{Code, Failure, REVISION_HEADER};

/// A sender that stalls for this long is disconnected.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Maximum number of concurrent connections.
const CONNECTIONS_MAX: usize = 256;

/// Fills the data directory from a file, if one is given; or waits for a backup, if requested and the directory has
/// no owner. Returns when the replica can start, or on `stop`.
///
/// # Errors
/// [`RestoreError`].
pub(crate) async fn before_start(
    replica: &ReplicaConfig,
    file: Option<&Path>,
    await_restore: bool,
    listener: &TcpListener,
    stop: &CancellationToken,
) -> Result<(), RestoreError> {
    if let Some(file) = file {
        match restore_off_thread(replica.clone(), file.into()).await? {
            Some(restoration) => announce(&restoration),
            None => tracing::info!("already restored from this backup: starting"),
        }
    } else if await_restore && !is_claimed(&replica.data_dir)? {
        tracing::info!("waiting for a backup: POST /v1/restore, or romana backup restore");
        if let Some(restoration) = Waiting::new(replica.clone()).wait(listener, stop).await {
            announce(&restoration);
        }
    }
    Ok(())
}

fn announce(restoration: &Restoration) {
    let Restoration { cluster_id, source, from_revision, waiting, .. } = restoration;
    tracing::info!(
        cluster_id,
        source,
        from_revision = from_revision.get(),
        waiting,
        "restored: allocation waits for reports from these hosts"
    );
}

async fn restore_off_thread(
    replica: ReplicaConfig,
    file: std::path::PathBuf,
) -> Result<Option<Restoration>, RestoreError> {
    let restored = tokio::task::spawn_blocking(move || restore(&replica, &file)).await;
    restored.unwrap_or_else(|error| {
        let what = "finish the restore".into();
        Err(RestoreError::Io { what, source: io::Error::other(error) })
    })
}

/// The server of a replica that waits for a backup.
#[derive(Clone)]
struct Waiting {
    replica: ReplicaConfig,
    /// Held by the upload in progress.
    upload: Arc<Mutex<()>>,
    done: watch::Sender<Option<Restoration>>,
}

impl Waiting {
    fn new(replica: ReplicaConfig) -> Self {
        Self { replica, upload: Arc::default(), done: watch::Sender::new(None) }
    }

    /// Serves until the directory is filled. `None`: stopped before. Answers in progress are completed.
    async fn wait(self, listener: &TcpListener, stop: &CancellationToken) -> Option<Restoration> {
        let mut done = self.done.subscribe();
        let answers = on_bad_head(no_replica());
        let connections = Connections::new(CONNECTIONS_MAX, answers, Counters::default());
        let service = service_fn(move |request| {
            let waiting = self.clone();
            async move { Ok::<_, std::convert::Infallible>(waiting.answer(request).await) }
        });
        tokio::select! {
            () = stop.cancelled() => None,
            filled = done.wait_for(Option::is_some) => {
                filled.ok().and_then(|restoration| restoration.clone())
            }
            () = connections.accept(listener, Plain, move |_| service.clone()) => None,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => {
                let (status, revision) = (String::from("healthy"), Revision(0));
                Ok(json!(Health { status, revision, waiting: true }))
            }
            (&Method::POST, "/v1/restore") => {
                match check_origin(request.headers(), request.uri()) {
                    Ok(()) => self.take(request.into_body()).await,
                    Err(failure) => Err(failure),
                }
            }
            (&Method::GET, "/readyz") => {
                Err(Failure::new(Code::AwaitingRestore, "this replica waits for a backup"))
            }
            (_, path) => {
                let why = format!("this replica waits for a backup and does not serve {path} yet");
                Err(Failure::new(Code::AwaitingRestore, why))
            }
        };
        let mut response = match answer {
            Ok(value) => shown(&value),
            Err(failure) => failure.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(REVISION_HEADER, HeaderValue::from(0));
        // The next request on this connection is for the replica that starts: close it.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// Stores an uploaded backup and restores the directory from it.
    async fn take(&self, body: Incoming) -> Result<Value, Failure> {
        let Ok(_one) = self.upload.try_lock() else {
            return Err(Failure::new(Code::Busy, "a backup is being restored already"));
        };
        if let Some(done) = &*self.done.borrow() {
            return Ok(json!(done));
        }
        let dir = &self.replica.data_dir;
        let path = dir.join(UPLOAD);
        let stored = store(body, dir, &path).await;
        let restored = match stored {
            Ok(()) => restore_off_thread(self.replica.clone(), path.clone()).await.map_err(refused),
            Err(failure) => Err(failure),
        };
        if let Err(error) = tokio::fs::remove_file(&path).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove the uploaded backup");
        }
        let restoration = restored?;
        let Some(restoration) = restoration else {
            return Err(Failure::new(Code::Internal, "the directory was filled meanwhile"));
        };
        let shown = json!(restoration);
        self.done.send_replace(Some(restoration));
        Ok(shown)
    }
}

/// Writes a body to a file.
async fn store(mut body: Incoming, dir: &Path, path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Code::Internal,
            format!("cannot store the backup in {}: {error}", path.display()),
        )
    };
    tokio::fs::create_dir_all(dir).await.map_err(failed)?;
    let mut file = File::create(path).await.map_err(failed)?;
    loop {
        let frame = timeout(STALL_MAX, body.frame()).await;
        let frame = frame.map_err(|_| {
            Failure::new(Code::RequestTimeout, "the backup stopped coming, nothing was restored")
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| {
            Failure::new(Code::MalformedBody, "the backup ended early, nothing was restored")
        })?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).await.map_err(failed)?;
        }
    }
    file.sync_all().await.map_err(failed)
}

/// The failure for a refused restore.
fn refused(error: RestoreError) -> Failure {
    let code = match &error {
        RestoreError::File(FileError::Backup { .. }) => Code::BackupUnusable,
        RestoreError::Taken { .. } | RestoreError::NotEmpty { .. } => Code::ClusterNotEmpty,
        RestoreError::Locked { .. } => Code::Busy,
        _ => Code::Internal,
    };
    Failure::new(code, chain(&error))
}

fn shown(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(value.to_string())));
    *response.status_mut() = StatusCode::OK;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
