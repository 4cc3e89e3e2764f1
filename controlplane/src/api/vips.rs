//! `/v1/vips`: requested virtual IPs, and the hosts that answer for them; `/v1/vip-pools`: where their addresses come from.

use axum::http::StatusCode;
use romana_api::vip::{SourcedVip, VipBody, VipPoolUsage};
use romana_api::{Changed, Page};
use romana_statemachine::command::{ObjectKey, SetVipPools, VipFromPool, VipRef, VipSpec};
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
    Operation::new(
        Verb::Get,
        "/v1/vip-pools",
        "vips",
        "Pools of addresses for VIPs, by name.",
        &[(200, of::<Page<VipPoolUsage>>)],
        handler!(pools),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Put,
        "/v1/vip-pools",
        "vips",
        "Replaces all pools. VIPs with addresses of a pool that goes keep them.",
        &[(200, of::<Page<VipPoolUsage>>)],
        handler!(set_pools),
    )
    .body::<SetVipPools>(BODY_BYTES_MAX),
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
    let change = call.change(request(name.clone(), call.json()?)?).await?;
    call.show(created(change), change, |state: &State| {
        state.vip(&name).map(|vip| sourced(state, vip))
    })
    .await
}

/// The request that a body makes.
fn request(name: VipName, body: VipBody) -> Result<Command, Failure> {
    let VipBody { ip, auto, pool, family, candidates } = body;
    let wrong = |why: &str| Failure::new(Code::MalformedBody, format!("VIP {name}: {why}"));
    match (ip, auto, pool.is_some() || family.is_some()) {
        (Some(ip), false, false) => Ok(Command::RequestVip(VipSpec { name, ip, candidates })),
        (None, true, _) => {
            Ok(Command::RequestVipFromPool(VipFromPool { name, pool, family, candidates }))
        }
        (_, false, true) => Err(wrong("a pool or a family is given without \"auto\": true")),
        (Some(_), true, _) => Err(wrong("both an ip and \"auto\": true are given")),
        (None, false, false) => Err(wrong("neither an ip nor \"auto\": true is given")),
    }
}

async fn delete(call: Call) -> reply::Result {
    let name = VipName::from(call.path("name"));
    let change = call.change(Command::RemoveVip(VipRef { name })).await?;
    reply::ok(change.revision, &change)
}

async fn pools(call: Call) -> reply::Result {
    let state = call.state().await?;
    reply::ok(state.revision(), &pools_of(&state))
}

async fn set_pools(call: Call) -> reply::Result {
    let change = call.change(Command::SetVipPools(call.json()?)).await?;
    call.show(StatusCode::OK, change, |state: &State| Some(pools_of(state))).await
}

fn pools_of(state: &State) -> Page<VipPoolUsage> {
    let pools = state.vip_pools().map(|(name, ranges)| {
        let within = |vip: &&Vip| ranges.iter().any(|range| range.contains(&vip.ip));
        let vips = state.vips().filter(within).count() as u64;
        VipPoolUsage { name: name.clone(), ranges: ranges.to_vec(), vips }
    });
    Page { items: pools.collect(), revision: state.revision(), next: None, oldest: None }
}
