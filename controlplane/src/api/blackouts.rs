//! `/v1/blackouts`: ranges excluded from allocation.

use romana_api::block::Blackout;
use romana_api::{Changed, Page};
use romana_statemachine::{Command, State, command};

use super::addresses::required;
use super::call::{Call, created};
use super::operation::{
    BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Operation, Param, Verb, handler, of,
};
use super::{list, reply};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/blackouts",
        "blackouts",
        "Blacked-out ranges, in order.",
        &[(200, of::<Page<Blackout>>)],
        handler!(list),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Operation::new(
        Verb::Post,
        "/v1/blackouts",
        "blackouts",
        "Excludes a range from allocation. It must hold no live address.",
        &[(201, of::<Changed>), (200, of::<Changed>)],
        handler!(add),
    )
    .body::<command::Blackout>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/blackouts",
        "blackouts",
        "Ends a blackout.",
        &[(200, of::<Changed>)],
        handler!(remove),
    )
    .query(&[Param::required("cidr", "The range, exactly as it was added")]),
];

/// All blackouts, in order.
pub(super) fn all(state: &State) -> impl Iterator<Item = Blackout> {
    state.ipam().blackouts().map(|cidr| Blackout { cidr })
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    list::page(&call, &state, all(&state), |blackout| blackout.cidr, |blackout| blackout)
}

async fn add(call: Call) -> reply::Result {
    let change = call.change(Command::AddBlackout(call.json()?)).await?;
    reply::json(created(change), change.revision, &change)
}

async fn remove(call: Call) -> reply::Result {
    let cidr = required(&call, "cidr")?.to_owned();
    let change = call.change(Command::RemoveBlackout(command::Blackout { cidr })).await?;
    reply::ok(change.revision, &change)
}
