//! `/healthz`, `/readyz`, `/status`, `/metrics`.

use axum::body::Body;
use axum::http::StatusCode;
use romana_api::health::{Health, Status};
use romana_daemon::probe::OPENMETRICS;
use romana_replica::FaultKind;
use romana_statemachine::Revision;

use super::call::Call;
use super::operation::{Accepts, Operation, Verb, handler, of};
use super::reply;
use crate::capacity;
use crate::error::{Code, Failure};
use crate::metrics::{ClockReading, Reading};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/healthz",
        "health",
        "Whether this replica works. 500 when it stopped itself for good: restart it.",
        &[(200, of::<Health>)],
        handler!(healthy),
    ),
    Operation::new(
        Verb::Get,
        "/readyz",
        "health",
        "Whether this replica can serve: its data is recovered and a majority confirms a leader. 503 with the reason if not.",
        &[(200, of::<Health>)],
        handler!(ready),
    ),
    Operation::new(
        Verb::Get,
        "/status",
        "health",
        "What this replica knows about itself: whether it is ready, and its problems. The cluster is at `/v1/cluster`.",
        &[(200, of::<Status>)],
        handler!(status),
    ),
    Operation::new(
        Verb::Get,
        "/metrics",
        "health",
        "Metrics in the OpenMetrics text format.",
        &[(200, of::<String>)],
        handler!(metrics),
    )
    .accepts(Accepts::Text),
];

fn revision(call: &Call) -> Revision {
    call.api.replica().with_state(romana_statemachine::State::revision)
}

fn well(revision: Revision, status: &str) -> reply::Result {
    reply::ok(revision, &Health { status: status.into(), revision, waiting: false })
}

async fn healthy(call: Call) -> reply::Result {
    let replica = call.api.replica();
    if replica.health().fault_kind() == Some(FaultKind::OlderCopy) {
        // A restart would not help.
        let revision = revision(&call);
        return well(revision, "waiting to be replaced");
    }
    if let Some(fault) = replica.health().fault() {
        let damaged = replica.health().fault_kind() == Some(FaultKind::Damaged);
        let code = if damaged { Code::HistoryDamaged } else { Code::Internal };
        return Err(Failure::new(code, format!("this replica has stopped: {fault}")));
    }
    let revision = revision(&call);
    well(revision, "healthy")
}

async fn ready(call: Call) -> reply::Result {
    let replica = call.api.replica();
    if let Some(why) = replica.health().not_ready() {
        let code = match replica.health().fault_kind() {
            Some(FaultKind::OlderCopy) => Code::OlderCopy,
            Some(FaultKind::Damaged) => Code::HistoryDamaged,
            _ => Code::Unavailable,
        };
        return Err(Failure::new(code, why));
    }
    let revision = revision(&call);
    well(revision, "ready")
}

async fn status(call: Call) -> reply::Result {
    let replica = call.api.replica();
    let not_ready = replica.health().not_ready();
    let members = replica.members().status().members.into_iter();
    let problems = members.filter(|member| member.id == replica.id()).flat_map(|own| own.problems);
    let status = Status {
        program: "romanad".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        id: replica.id(),
        ready: not_ready.is_none(),
        not_ready,
        problems: problems.collect(),
    };
    reply::ok(revision(&call), &status)
}

async fn metrics(call: Call) -> reply::Result {
    let replica = call.api.replica();
    let (status, state, feed) = (replica.members().status(), replica.state(), replica.feed());
    let clocks = replica.clocks().status();
    let reading = Reading {
        revision: state.revision().get(),
        index: state.index().get(),
        term: status.term.get(),
        is_leader: status.leader == Some(replica.id()),
        has_leader: status.leader.is_some(),
        members: status.members.len() as u64,
        followers: feed.followers() as u64,
        feed_lag: feed.lag(),
        addresses: state.ipam().address_count() as u64,
        hosts: state.hosts().count() as u64,
        history_oldest: replica.history().oldest().get(),
        history_bytes: replica.history().bytes(),
        signed: state.signed().map_or(0, |signed| signed.revision.get()),
        disk_free: romana_storage::disk::free(replica.history().dir()).unwrap_or_default(),
        history_damaged: replica.history().damaged(),
        clocks_agreed: clocks.agreed,
        log_time: clocks.log_time.0,
        log_ahead_ms: clocks.log_ahead_ms,
    };
    let clocks = clocks.members.iter().map(|clock| ClockReading {
        member: clock.id,
        ahead_ms: clock.ahead_ms,
        far: clock.far,
    });
    // It reads every block: not on a thread that answers requests.
    let seen = state.clone();
    let networks = tokio::task::spawn_blocking(move || capacity::networks(&seen)).await;
    let networks = networks.map_err(|why| Failure::new(Code::Internal, why.to_string()))?;
    let problems = replica.health().problems().counts();
    let text = call.api.metrics().render(&reading, clocks, &problems, &networks);
    let text = text.map_err(|why| Failure::new(Code::Internal, why.to_string()))?;
    Ok(reply::raw(StatusCode::OK, state.revision(), OPENMETRICS, Body::from(text)))
}
