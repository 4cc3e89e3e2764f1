//! `/v1/topology`: accepts the topology document and returns the same document with CIDRs and hosts.

use axum::http::StatusCode;
use romana_api::topology;
use romana_statemachine::topology::{TopologyPlan, TopologySpec};
use romana_statemachine::{Command, Refusal};

use super::call::Call;
use super::operation::{BODY_BYTES_MAX, CONSISTENCY, Operation, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/topology",
        "topology",
        "The topology, with the CIDRs and hosts of its groups. A valid body for PUT.",
        &[(200, of::<TopologySpec>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Put,
        "/v1/topology",
        "topology",
        "Sets or replaces the topology. Everything that lives is kept, or the whole is refused.",
        &[(200, of::<TopologySpec>)],
        handler!(put),
    )
    .body::<TopologySpec>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Post,
        "/v1/topology/plan",
        "topology",
        "What setting a topology would do. Commits nothing.",
        &[(200, of::<TopologyPlan>)],
        handler!(plan),
    )
    .body::<TopologySpec>(BODY_BYTES_MAX)
    .query(&[CONSISTENCY]),
];

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    match topology::document(&state) {
        Some(document) => reply::ok(state.revision(), &document),
        None => Err(not_set()),
    }
}

/// There is no topology to show: a 404, while writes get a conflict.
pub(super) fn not_set() -> Failure {
    let refusal = Refusal::NoTopology;
    Failure::new(Code::TopologyNotFound, refusal.to_string())
}

async fn put(call: Call) -> reply::Result {
    let spec: TopologySpec = call.json()?;
    let change = call.change(Command::SetTopology(spec)).await?;
    call.show(StatusCode::OK, change, topology::document).await
}

async fn plan(call: Call) -> reply::Result {
    let spec: TopologySpec = call.json()?;
    let state = call.state().await?;
    let revision = state.revision();
    // Visits every block: takes tens of milliseconds when there are very many.
    let plans = &call.api.budgets().plans;
    let plan = call.work(plans, move |_| state.plan_topology(&spec)).await?;
    reply::ok(revision, &plan?)
}
