//! `/healthz`, `/readyz`, `/status` and `/metrics` of the agent.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter as PromCounter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::kernel::packet_filter::PacketFilter;
use crate::policy::counters::{Counter, counters};
use crate::status::{PolicyStatus, Said};

struct Shown {
    said: Said,
    filter: PacketFilter,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    said: Said,
    filter: PacketFilter,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(
            "/status",
            get(|State(shown): State<Arc<Shown>>| async move { Json(shown.said.now()) }),
        )
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Shown { said, filter }));
    let served = axum::serve(listener, router);
    tokio::select! {
        () = stop.cancelled() => {}
        served = served => if let Err(error) = served {
            tracing::error!(%error, "no status and no metrics any more");
        }
    }
}

/// Ready: the kernel agrees with what is known of the log, however old that is, and containers can be attached;
/// the answer says.
async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    let status = shown.said.now();
    let code = if status.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, status.text()).into_response()
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let status = shown.said.now();
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
    gauge(
        "ready",
        "Whether the kernel agrees with the log and containers can be attached",
        Some(u64::from(status.is_ready())),
    );
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
    let unknown = ConstCounter::new(status.unknown_events);
    registry.register(
        "unknown_events",
        "Events of a newer control plane that were left out",
        unknown,
    );
    if let Some(policy) = &status.policy {
        gauge_policy(&mut registry, policy);
        match shown.filter.counters().await {
            Ok(text) => register_counters(&mut registry, counters(&text)),
            Err(error) => tracing::warn!(%error, "no counters of policies"),
        }
    }
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn gauge_policy(registry: &mut Registry, policy: &PolicyStatus) {
    let number = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register("policies", "Policies that concern this host", number(policy.policies));
    registry.register("policy_rules", "Rules of the packet filter", number(policy.rules));
    registry.register("policy_sets", "Sets of the packet filter", number(policy.sets));
    if let Some(applied) = policy.applied {
        let applied = ConstGauge::new(i64::try_from(applied).unwrap_or(i64::MAX));
        let help = "The revision whose policies are in the kernel";
        registry.register("policy_applied_revision", help, applied);
    }
    let drifts = ConstCounter::new(policy.drifts);
    let help =
        "Times that another program had changed rules or sets of ours, and they were restored";
    registry.register("policy_drifts", help, drifts);
    let seconds = ConstGauge::new(policy.took_us as f64 / 1e6);
    let help = "How long the last change took, from compiling to the kernel";
    registry.register_with_unit("policy_change", help, Unit::Seconds, seconds);
}

/// Labels of a policy's counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    policy: String,
    direction: &'static str,
    verdict: &'static str,
}

fn register_counters(registry: &mut Registry, counters: Vec<Counter>) {
    let (packets, bytes) = (Family::<OfPolicy, PromCounter>::default(), Family::default());
    for Counter { policy, direction, allowed, packets: p, bytes: b } in counters {
        let verdict = if allowed { "allowed" } else { "denied" };
        let labels = OfPolicy { policy, direction, verdict };
        packets.get_or_create(&labels).inc_by(p);
        Family::<OfPolicy, PromCounter>::get_or_create(&bytes, &labels).inc_by(b);
    }
    let help = "Packets that policies were asked about; those of established connections are not";
    registry.register("policy_packets", help, packets);
    registry.register("policy_bytes", "Their bytes", bytes);
}
