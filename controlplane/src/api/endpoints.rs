//! `/v1/endpoints`: objects that have an address and are subject to policy. On Kubernetes a leader task maintains
//! them; elsewhere the orchestrator sets them here.

use std::net::IpAddr;

use romana_api::endpoint::EndpointBody;
use romana_api::{Changed, Page};
use romana_statemachine::command::{Endpoint, EndpointRef};
use romana_statemachine::{Command, State};

use super::call::{Call, created};
use super::operation::{
    BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Operation, Param, Verb, handler, of,
};
use super::{list, reply};
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/endpoints",
        "endpoints",
        "Endpoints, by address.",
        &[(200, of::<Page<Endpoint>>)],
        handler!(list),
    )
    .query(&[
        Param::optional("host", "Only on this host"),
        Param::optional("tenant", "Only of this tenant"),
        Param::optional("segment", "Only of this segment"),
        LIMIT,
        CONTINUE,
        CONSISTENCY,
    ]),
    Operation::new(
        Verb::Get,
        "/v1/endpoints/{ip}",
        "endpoints",
        "An endpoint.",
        &[(200, of::<Endpoint>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Put,
        "/v1/endpoints/{ip}",
        "endpoints",
        "Creates or replaces an endpoint.",
        &[(201, of::<Endpoint>), (200, of::<Endpoint>)],
        handler!(put),
    )
    .body::<EndpointBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/endpoints/{ip}",
        "endpoints",
        "Removes an endpoint. Idempotent.",
        &[(200, of::<Changed>)],
        handler!(delete),
    ),
];

fn ip(call: &Call) -> Result<IpAddr, Failure> {
    let text = call.path("ip");
    text.parse().map_err(|why| Failure::new(Code::MalformedPath, format!("{text:?}: {why}")))
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    let [host, tenant, segment] = ["host", "tenant", "segment"].map(|name| call.query(name));
    let same = |wanted: Option<&str>, has: &str| wanted.is_none_or(|wanted| wanted == has);
    let wanted = |endpoint: &&Endpoint| {
        same(host, endpoint.host.as_str())
            && same(tenant, endpoint.tenant.as_str())
            && same(segment, endpoint.segment.as_str())
    };
    list::page(&call, &state, state.endpoints().filter(wanted), |e| e.ip, |endpoint| endpoint)
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let ip = ip(&call)?;
    match state.endpoint(ip) {
        Some(endpoint) => reply::ok(state.revision(), endpoint),
        None => Err(Failure::new(Code::EndpointNotFound, format!("there is no endpoint {ip}"))
            .with("ip", ip.to_string())),
    }
}

async fn put(call: Call) -> reply::Result {
    let ip = ip(&call)?;
    let EndpointBody { tenant, segment, host, labels, ports } = call.json()?;
    let endpoint = Endpoint { ip, tenant, segment, host, labels, ports };
    let change = call.change(Command::SetEndpoint(endpoint)).await?;
    call.show(created(change), change, |state: &State| state.endpoint(ip).cloned()).await
}

async fn delete(call: Call) -> reply::Result {
    let change = call.change(Command::RemoveEndpoint(EndpointRef { ip: ip(&call)? })).await?;
    reply::ok(change.revision, &change)
}
