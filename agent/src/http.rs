//! `/healthz`, `/readyz`, `/status` and `/metrics` of the agent.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::follow::Seen;
use crate::status::Status;

struct Shown {
    status: watch::Receiver<Status>,
    seen: watch::Receiver<Seen>,
}

impl Shown {
    fn now(&self) -> Status {
        let heard = self.seen.borrow().heard;
        let stale_ms =
            heard.map(|heard| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX));
        Status { stale_ms, ..self.status.borrow().clone() }
    }
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    status: watch::Receiver<Status>,
    seen: watch::Receiver<Seen>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(|State(shown): State<Arc<Shown>>| async move { Json(shown.now()) }))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Shown { status, seen }));
    let served = axum::serve(listener, router);
    tokio::select! {
        () = stop.cancelled() => {}
        served = served => if let Err(error) = served {
            tracing::error!(%error, "no status and no metrics any more");
        }
    }
}

/// Ready: the kernel agrees with what is known of the log, however old that is; the answer says.
async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let status = shown.now();
    let code = if status.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, status.text()).into_response()
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let status = shown.now();
    let mut registry = Registry::with_prefix("romana_agent");
    let mut gauge = |name: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            registry.register(name, help, ConstGauge::new(value));
        }
    };
    gauge("revision", "Up to where the log was followed", status.revision);
    gauge("applied_revision", "The revision that the kernel agrees with", status.applied);
    gauge("routes", "Routes that are wanted", Some(status.routes as u64));
    gauge("skipped_blocks", "Blocks without a route", Some(status.skipped.len() as u64));
    gauge("problems", "What somebody has to look at", Some(status.problems.len() as u64));
    gauge("ready", "Whether the kernel agrees with the log", Some(u64::from(status.is_ready())));
    if let Some(stale) = status.stale_ms {
        let seconds = ConstGauge::new(stale as f64 / 1e3);
        registry.register_with_unit(
            "staleness",
            "Since a replica was last heard",
            Unit::Seconds,
            seconds,
        );
    }
    let writes = ConstCounter::new(status.writes);
    registry.register("netlink_writes", "Changes of routes asked of the kernel", writes);
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
