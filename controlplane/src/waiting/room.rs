//! Waits for free disk space, and answers requests until there is some.
//!
//! A replica whose disk is nearly full stops before the disk is full: it hands over leadership, stops as on SIGTERM,
//! and the process answers every request with `DiskFull` until there is space again; then it starts a new replica in
//! the same process. A disk that fills up suddenly is handled the same way. Acknowledged data is not lost: it is
//! already on the disk.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use hyper_util::service::TowerToHyperService;
use romana_daemon::listener::{Connections, Counters, Plain};
use romana_storage::disk::{LOOK_EVERY, LowSpace, SpaceGuard, free};
use serde_json::json;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::connection::{no_replica, on_bad_head};
use crate::error::{Code, Failure};

/// After a write failed because the disk was full, wait at least this long before a restart: there may be a quota.
const FULL_PAUSE: Duration = Duration::from_secs(5);
/// Maximum number of concurrent connections.
const CONNECTIONS_MAX: usize = 1024;

/// Waits for free disk space; returns `false` on `stop`. Until then every request gets an error that says
/// why there is no replica.
pub(crate) async fn wait(
    room: &mut SpaceGuard,
    listener: &TcpListener,
    stop: &CancellationToken,
) -> bool {
    let pause = if room.has_run_out() { FULL_PAUSE } else { Duration::ZERO };
    let over = tokio::time::Instant::now() + pause;
    let Some(mut short) =
        room.short().or_else(|| room.compare(u64::MAX).filter(|_| !pause.is_zero()))
    else {
        return true;
    };
    short.needed = room.needed();
    warn!(%short, "waiting for room on the disk");
    let done = CancellationToken::new();
    let router = Router::new().fallback(answer).with_state(Arc::new((short, room.clone())));
    let serving = match listener.try_clone().and_then(tokio::net::TcpListener::from_std) {
        Ok(listener) => Some(tokio::spawn(serve(listener, router, done.clone()))),
        Err(error) => {
            warn!(%error, "cannot answer meanwhile");
            None
        }
    };
    let mut clock = interval(LOOK_EVERY);
    let there_is_room = loop {
        tokio::select! {
            () = stop.cancelled() => break false,
            _ = clock.tick() => {}
        }
        if tokio::time::Instant::now() >= over && room.short().is_none() {
            info!("there is room on the disk again");
            break true;
        }
    };
    done.cancel();
    if let Some(serving) = serving {
        // It ends at once and its result does not matter.
        _ = serving.await;
    }
    room.begin();
    there_is_room
}

/// Answers every request with `router`, within the limits of a connection, until `done`.
async fn serve(listener: tokio::net::TcpListener, router: Router, done: CancellationToken) {
    let answers = on_bad_head(no_replica());
    let connections = Connections::new(CONNECTIONS_MAX, answers, Counters::default());
    let service = TowerToHyperService::new(router);
    tokio::select! {
        () = done.cancelled() => {}
        () = connections.accept(&listener, Plain, move |_| service.clone()) => {}
    }
    connections.cut();
}

/// The answer to every request while there is no disk space.
async fn answer(
    State(state): State<Arc<(LowSpace, SpaceGuard)>>,
    request: Request<Body>,
) -> Response<Body> {
    let (short, room) = &*state;
    let free = free(room.dir()).unwrap_or(short.free);
    let short = LowSpace { free, ..short.clone() };
    match request.uri().path() {
        // A restart would not help.
        "/healthz" => {
            let body =
                json!({"status": "waiting for room on the disk", "message": short.to_string()});
            let mut response = Response::new(Body::from(body.to_string()));
            let kind = axum::http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(axum::http::header::CONTENT_TYPE, kind);
            response
        }
        "/metrics" => Response::new(Body::from(format!(
            "# TYPE romanad_disk_free_bytes gauge\nromanad_disk_free_bytes {}\n\
             # TYPE romanad_disk_full gauge\nromanad_disk_full 1\n# EOF\n",
            short.free
        ))),
        _ => Failure::new(Code::DiskFull, short.to_string())
            .with("directory", short.dir.display().to_string())
            .with("free_bytes", short.free)
            .with("needed_bytes", short.needed)
            .into_response(),
    }
}
