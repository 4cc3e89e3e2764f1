//! `/v1/vips`: requested virtual IPs, and the hosts that answer for them.

use romana_api::vip::{SourcedVip, VipBody};
use romana_api::{Changed, Page};
use romana_statemachine::command::{ObjectKey, VipRef, VipSpec};
use romana_statemachine::lease::LeaseLeft;
use romana_statemachine::name::VipName;
use romana_statemachine::{Command, Refusal, State, Vip};

use super::call::{Call, created};
use super::operation::{
    BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Operation, Verb, handler, of,
};
use super::{list, reply};
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/vips",
        "vips",
        "VIPs, by name: which host has each, since when and why, and who asks for it.",
        &[(200, of::<Page<SourcedVip>>)],
        handler!(list),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Operation::new(
        Verb::Get,
        "/v1/vips/{name}",
        "vips",
        "A VIP.",
        &[(200, of::<SourcedVip>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Put,
        "/v1/vips/{name}",
        "vips",
        "Creates or replaces the request for a VIP.",
        &[(201, of::<SourcedVip>), (200, of::<SourcedVip>)],
        handler!(put),
    )
    .body::<VipBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/vips/{name}",
        "vips",
        "Removes a VIP.",
        &[(200, of::<Changed>)],
        handler!(delete),
    ),
    Operation::new(
        Verb::Get,
        "/v1/leases",
        "vips",
        "Grants of VIPs that may not be over, as the leader knows them: what is left of each.",
        &[(200, of::<Page<LeaseLeft>>)],
        handler!(leases),
    ),
];

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    let shown = |vip: &Vip| sourced(&state, vip);
    list::page(&call, &state, state.vips(), |vip: &&Vip| vip.name.clone(), shown)
}

fn sourced(state: &State, vip: &Vip) -> SourcedVip {
    let source = state.source(&ObjectKey::Vip(vip.name.clone())).cloned();
    SourcedVip { vip: vip.clone(), source }
}

async fn leases(call: Call) -> reply::Result {
    let replica = call.api.replica();
    let leases = replica.vips().leases(call.deadline).await;
    let items = leases.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
    reply::whole(replica.with_state(State::revision), items)
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let vip = VipName::from(call.path("name"));
    match state.vip(&vip) {
        Some(vip) => reply::ok(state.revision(), &sourced(&state, vip)),
        None => Err(Refusal::VipNotFound { vip }.into()),
    }
}

async fn put(call: Call) -> reply::Result {
    let name = VipName::from(call.path("name"));
    let spec = spec(name.clone(), call.json()?)?;
    let change = call.change(Command::RequestVip(spec)).await?;
    call.show(created(change), change, |state: &State| {
        state.vip(&name).map(|vip| sourced(state, vip))
    })
    .await
}

/// The request that a body makes.
fn spec(name: VipName, body: VipBody) -> Result<VipSpec, Failure> {
    let VipBody { ip, auto, pool, candidates } = body;
    let wrong = |why: &str| Failure::new(Code::MalformedBody, format!("VIP {name}: {why}"));
    match (ip, auto, pool) {
        (Some(ip), false, None) => Ok(VipSpec { name, ip, candidates }),
        // No topology has pools yet.
        (None, true, _) => {
            let why = format!(
                "VIP {name} was not requested: the topology has no pool of addresses for VIPs. Give an ip."
            );
            Err(Failure::new(Code::VipsNotServed, why))
        }
        (_, false, Some(_)) => Err(wrong("a pool is given without \"auto\": true")),
        (Some(_), true, _) => Err(wrong("both an ip and \"auto\": true are given")),
        (None, false, None) => Err(wrong("neither an ip nor \"auto\": true is given")),
    }
}

async fn delete(call: Call) -> reply::Result {
    let name = VipName::from(call.path("name"));
    let change = call.change(Command::RemoveVip(VipRef { name })).await?;
    reply::ok(change.revision, &change)
}
