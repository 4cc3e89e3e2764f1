//! `/v1/topology`: accepts the seeds' document and returns the same document with CIDRs and hosts.

use axum::http::StatusCode;
use romana_statemachine::topology::{TopologyPlan, TopologySpec};
use romana_statemachine::{Command, Refusal, State};
use serde_json::Value;

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

/// Fields that are omitted when they have their default.
const OPTIONAL: [&str; 4] = ["tenants", "addresses", "assignment", "skip_first_last"];

/// The document as users write it: without default values.
pub(super) fn view(state: &State) -> Result<Option<Value>, Failure> {
    let Some(spec) = state.topology_document() else { return Ok(None) };
    let mut document = serde_json::to_value(&spec)
        .map_err(|why| Failure::new(Code::Internal, format!("the topology: {why}")))?;
    prune(&mut document);
    Ok(Some(document))
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| {
                let says_nothing = match value {
                    Value::Null => true,
                    Value::Array(items) => items.is_empty(),
                    Value::Object(members) => members.is_empty(),
                    Value::Bool(on) => !*on,
                    _ => false,
                };
                !(value.is_null() || says_nothing && OPTIONAL.contains(&name.as_str()))
            });
            // Keys of label maps belong to users and are kept as they are.
            let ours = |name: &str| !matches!(name, "labels" | "assignment");
            members.iter_mut().filter(|(name, _)| ours(name)).for_each(|(_, value)| prune(value));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    match view(&state)? {
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
    let show = |state: &State| view(state).ok().flatten();
    call.show(StatusCode::OK, change, show).await
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
