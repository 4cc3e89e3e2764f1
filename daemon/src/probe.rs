//! The endpoints `/healthz`, `/readyz`, `/status` and `/metrics`, implemented with one [`Probe`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::listener::{Connections, Counters, Plain, plain_answers};
use crate::problems::Problems;

/// Content type of the output of [`render`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Limit of connections to the probe.
const CONNECTIONS_MAX: usize = 256;
/// Timeout for current requests at the stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of a program.
pub trait Probe: Send + Sync + 'static {
    /// The document at `/status`.
    type Status: Serialize + Send + Sync;

    /// Prefix of all metric names; empty: they are whole.
    fn prefix(&self) -> &'static str;

    /// The current status.
    fn status(&self) -> Self::Status;

    /// Whether the program does its work; `/readyz` answers 503 if not.
    fn is_ready(&self, status: &Self::Status) -> bool;

    /// The status as text: the body of `/readyz`.
    fn text(&self, status: &Self::Status) -> String;

    /// Registers the metrics for `/metrics`.
    fn metrics(
        &self,
        status: &Self::Status,
        registry: &mut Registry,
    ) -> impl Future<Output = ()> + Send;
}

/// Serves a probe until `stop`.
pub async fn serve<P: Probe>(listener: TcpListener, probe: P, stop: CancellationToken) {
    let service = TowerToHyperService::new(router(probe));
    let connections = Connections::new(CONNECTIONS_MAX, plain_answers(), Counters::default());
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving health, status and metrics");
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = connections.accept(&listener, Plain, move |_| service.clone()) => {}
    }
    // New connections are refused from now on, instead of waiting for the end of the process.
    drop(listener);
    connections.drain(DRAIN_TIMEOUT).await;
}

/// The routes of a probe.
pub fn router<P: Probe>(probe: P) -> Router {
    let json = |State(probe): State<Arc<P>>| async move { Json(probe.status()) };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<P>))
        .route("/status", get(json))
        .route("/metrics", get(metrics::<P>))
        .with_state(Arc::new(probe))
}

async fn ready<P: Probe>(State(probe): State<Arc<P>>) -> Response {
    let status = probe.status();
    let ready = probe.is_ready(&status);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, probe.text(&status)).into_response()
}

async fn metrics<P: Probe>(State(probe): State<Arc<P>>) -> Response {
    let mut registry = match probe.prefix() {
        "" => Registry::default(),
        prefix => Registry::with_prefix(prefix),
    };
    let status = probe.status();
    probe.metrics(&status, &mut registry).await;
    match render(&registry) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Metrics in the OpenMetrics text format.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn render(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// Registers a gauge with its current value.
pub fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    registry.register(name, help, ConstGauge::new(value));
}

/// A probe without program-specific state: ready while no part reports a problem.
#[derive(Clone, Debug)]
pub struct Health {
    program: &'static str,
    version: &'static str,
    problems: Problems,
}

/// The status of [`Health`].
#[derive(Clone, Debug, Serialize)]
pub struct HealthStatus {
    program: &'static str,
    version: &'static str,
    ready: bool,
    problems: Vec<String>,
}

impl Health {
    /// `program` is also the prefix of metric names.
    #[must_use]
    pub fn new(program: &'static str, version: &'static str, problems: Problems) -> Self {
        Self { program, version, problems }
    }
}

impl Probe for Health {
    type Status = HealthStatus;

    fn prefix(&self) -> &'static str {
        self.program
    }

    fn status(&self) -> HealthStatus {
        let Self { program, version, .. } = *self;
        let problems = self.problems.all();
        HealthStatus { program, version, ready: problems.is_empty(), problems }
    }

    fn is_ready(&self, status: &HealthStatus) -> bool {
        status.ready
    }

    fn text(&self, status: &HealthStatus) -> String {
        let HealthStatus { program, version, ready, problems } = status;
        let ready = if *ready { "ready" } else { "not ready" };
        let lines = problems.iter().map(|problem| format!("problem     {problem}\n"));
        format!("{program} {version}: {ready}\n") + &lines.collect::<String>()
    }

    async fn metrics(&self, status: &HealthStatus, registry: &mut Registry) {
        let help = "Whether the program does its work (1) or not (0)";
        gauge(registry, "ready", help, u64::from(status.ready));
        self.problems.register(registry);
    }
}
