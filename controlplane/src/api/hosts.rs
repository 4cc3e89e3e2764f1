//! `/v1/hosts`: hosts, and the reports of what runs on them.

use std::net::IpAddr;

use romana_statemachine::command::{
    HostChange, HostReport, HostSpec, HostState, Labels, RemoveHost, SetHostState,
};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::{Command, Host, Refusal, Revision, State};
use serde::Deserialize;

use super::call::Call;
use super::reply;
use super::route::{BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Param, Route, Verb, handler};
use crate::error::{Code, Failure};

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Verb::Get,
        "/v1/hosts",
        "hosts",
        "Hosts, by name.",
        &[(200, "HostList")],
        handler!(list),
    )
    .query(&[
        Param::optional("state", "Only in this state: up, down, draining"),
        LIMIT,
        CONTINUE,
        CONSISTENCY,
    ]),
    Route::new(
        Verb::Post,
        "/v1/hosts",
        "hosts",
        "Adds a host and places it in a prefix group of each network. 200 if it stood already.",
        &[(201, "Host"), (200, "Host")],
        handler!(add),
    )
    .body("HostSpec", BODY_BYTES_MAX),
    Route::new(Verb::Get, "/v1/hosts/{name}", "hosts", "A host.", &[(200, "Host")], handler!(get))
        .query(&[CONSISTENCY]),
    Route::new(
        Verb::Patch,
        "/v1/hosts/{name}",
        "hosts",
        "Changes a host's facts, or its state; absent members stay.",
        &[(200, "Host")],
        handler!(patch),
    )
    .body("HostPatch", BODY_BYTES_MAX),
    Route::new(
        Verb::Delete,
        "/v1/hosts/{name}",
        "hosts",
        "Removes a host. One with live addresses is refused, unless forced.",
        &[(200, "Changed")],
        handler!(remove),
    )
    .query(&[Param::optional("force", "`true`: release what lives on it (recorded as eviction)")]),
    Route::new(
        Verb::Post,
        "/v1/hosts/{name}/report",
        "hosts",
        "What really runs on a host, said by its agent: addresses older than the revision and not \
         running are released.",
        &[(200, "Changed")],
        handler!(report),
    )
    .body("HostReport", BODY_BYTES_MAX),
];

/// New facts, or a new state.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    ip: Option<IpAddr>,
    addresses: Option<Vec<IpAddr>>,
    labels: Option<Labels>,
    info: Option<Labels>,
    state: Option<HostState>,
}

/// A report; the host is in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    revision: Revision,
    running: Vec<AddressName>,
}

fn name(call: &Call) -> HostName {
    HostName::from(call.path("name"))
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    let wanted = match call.query("state") {
        None => None,
        Some("up") => Some(HostState::Up),
        Some("down") => Some(HostState::Down),
        Some("draining") => Some(HostState::Draining),
        Some(other) => {
            return Err(super::call::bad_query("state", other, "it is not up, down or draining"));
        }
    };
    let hosts = state.hosts().filter(|host| wanted.is_none_or(|wanted| host.state == wanted));
    reply::page(&call, &state, hosts, |host: &&Host| host.name.clone(), |host| host)
}

async fn add(call: Call) -> reply::Result {
    let spec: HostSpec = call.json()?;
    let name = spec.name.clone();
    let change = call.change(Command::AddHost(spec)).await?;
    call.show(change.created(), change, |state: &State| state.host(&name).cloned()).await
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let host = name(&call);
    match state.host(&host) {
        Some(host) => reply::ok(state.revision(), host),
        None => Err(Refusal::HostNotFound { host }.into()),
    }
}

async fn patch(call: Call) -> reply::Result {
    let name = name(&call);
    let Patch { ip, addresses, labels, info, state } = call.json()?;
    let facts = ip.is_some() || addresses.is_some() || labels.is_some() || info.is_some();
    let command = match state {
        Some(_) if facts => {
            // Two commands: one could be refused after the other was done.
            let why = "state cannot be changed together with other members: send two requests";
            return Err(Failure::new(Code::MalformedBody, why).with("field", "state"));
        }
        Some(state) => {
            Command::SetHostState(SetHostState { name: name.clone(), state, term: None })
        }
        None => Command::UpdateHost(HostChange { name: name.clone(), ip, addresses, labels, info }),
    };
    let change = call.change(command).await?;
    call.show(axum::http::StatusCode::OK, change, |state: &State| state.host(&name).cloned()).await
}

async fn remove(call: Call) -> reply::Result {
    let force = call.query_as::<bool>("force")?.unwrap_or(false);
    let change = call.change(Command::RemoveHost(RemoveHost { name: name(&call), force })).await?;
    reply::ok(change.revision, &change)
}

async fn report(call: Call) -> reply::Result {
    let Report { revision, running } = call.json()?;
    let report = HostReport { host: name(&call), revision, running };
    let change = call.change(Command::ReportHost(report)).await?;
    reply::ok(change.revision, &change)
}
