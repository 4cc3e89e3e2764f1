//! `/v1/hosts`: hosts, and the agents' reports of what runs on them.

use std::collections::BTreeSet;

use romana_api::host::{EnrolmentBody, HeartbeatBody, HostPatch, ReportBody};
use romana_api::vip::VipRenewalBody;
use romana_api::{Changed, Page};
use romana_statemachine::agent::{Heartbeat, HeartbeatAge, RefusedAgent};
use romana_statemachine::command::{
    EnrolAgent, HostChange, HostReport, HostSpec, HostState, RemoveHost, ReportAttachments,
    SetHostState,
};
use romana_statemachine::lease::{VipAnswer, VipRenewal};
use romana_statemachine::name::{AddressName, HostName};
use romana_statemachine::version::{ADOPTION, VIP_PLACEMENT};
use romana_statemachine::{Command, Host, Refusal, State};

use super::call::{Call, created};
use super::operation::{
    BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Operation, Param, Verb, handler, of,
};
use super::{list, reply};
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/hosts",
        "hosts",
        "Hosts, by name.",
        &[(200, of::<Page<Host>>)],
        handler!(list),
    )
    .query(&[
        Param::optional("state", "Only in this state: up, down, draining"),
        LIMIT,
        CONTINUE,
        CONSISTENCY,
    ]),
    Operation::new(
        Verb::Post,
        "/v1/hosts",
        "hosts",
        "Adds a host and places it in a prefix group of each network. 200 if it stood already.",
        &[(201, of::<Host>), (200, of::<Host>)],
        handler!(add),
    )
    .body::<HostSpec>(BODY_BYTES_MAX),
    Operation::new(Verb::Get, "/v1/hosts/{name}", "hosts", "A host.", &[(200, of::<Host>)], handler!(get))
        .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Patch,
        "/v1/hosts/{name}",
        "hosts",
        "Changes a host's facts, or its state; absent members stay.",
        &[(200, of::<Host>)],
        handler!(patch),
    )
    .body::<HostPatch>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/hosts/{name}",
        "hosts",
        "Removes a host. One with live addresses is refused, unless forced.",
        &[(200, of::<Changed>)],
        handler!(remove),
    )
    .query(&[Param::optional("force", "`true`: release what lives on it (recorded as eviction)")]),
    Operation::new(
        Verb::Post,
        "/v1/hosts/{name}/report",
        "hosts",
        "What really runs on a host, said by its agent: addresses older than the revision and not \
         running are released; with addresses (`attached`), those that are not allocated are \
         adopted, or kept as conflicts.",
        &[(200, of::<Changed>)],
        handler!(report),
    )
    .body::<ReportBody>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Post,
        "/v1/hosts/{name}/heartbeat",
        "hosts",
        "The host's agent lives. Not in the log: the leader remembers the last one.",
        &[(200, of::<Changed>)],
        handler!(heartbeat),
    )
    .body::<HeartbeatBody>(HEARTBEAT_BYTES_MAX),
    Operation::new(
        Verb::Post,
        "/v1/hosts/{name}/agent",
        "hosts",
        "Makes an agent the one that speaks for a host. Another one is refused, unless it names the one \
         that it replaces.",
        &[(200, of::<Changed>)],
        handler!(enrol),
    )
    .body::<EnrolmentBody>(HEARTBEAT_BYTES_MAX),
    Operation::new(
        Verb::Post,
        "/v1/hosts/{name}/vips",
        "hosts",
        "Renews a host's leases of virtual IPs, said by its agent. Not in the log: the leader answers, after a quorum \
         has confirmed that it leads, for which addresses the host may answer and which it has to give up.",
        &[(200, of::<VipAnswer>)],
        handler!(renew_vips),
    )
    .body::<VipRenewalBody>(HEARTBEAT_BYTES_MAX),
    Operation::new(
        Verb::Get,
        "/v1/heartbeats",
        "hosts",
        "What each host's agent said last, and how long ago.",
        &[(200, of::<Page<HeartbeatAge>>)],
        handler!(heartbeats),
    ),
];

/// Maximum size of a heartbeat; maximum number of problems kept from it, and the size of each.
const HEARTBEAT_BYTES_MAX: usize = 64 << 10;
const PROBLEMS_MAX: usize = 16;
const PROBLEM_BYTES_MAX: usize = 512;

/// Refuses invalid names.
fn check_names(report: &ReportBody) -> Result<(), Refusal> {
    let attached = report.attached.iter().flatten().map(|one| &one.name);
    report.running.iter().chain(attached).try_for_each(AddressName::check)
}

/// The command for a report, in the form that the cluster's behaviour version knows.
fn report_command(report: ReportBody, host: HostName, version: u16) -> Command {
    let ReportBody { revision, at, running, attached } = report;
    match (attached, at) {
        (Some(attached), Some(at)) if version >= ADOPTION => {
            let known: BTreeSet<&AddressName> = attached.iter().map(|one| &one.name).collect();
            let kept = running.into_iter().filter(|name| !known.contains(name)).collect();
            let report = ReportAttachments { host, revision, at, running: attached, kept };
            Command::ReportAttachments(report)
        }
        (attached, _) => {
            let mut names: BTreeSet<AddressName> = running.into_iter().collect();
            names.extend(attached.into_iter().flatten().map(|one| one.name));
            let running = names.into_iter().collect();
            Command::ReportHost(HostReport { host, revision, running })
        }
    }
}

fn name(call: &Call) -> HostName {
    HostName::from(call.path("name"))
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    let known = |text: &str| HostState::ALL.into_iter().find(|state| state.as_str() == text);
    let wanted = call.query("state").map(|text| {
        let unknown = || super::head::bad_query("state", text, "it is not up, down or draining");
        known(text).ok_or_else(unknown)
    });
    let wanted = wanted.transpose()?;
    let hosts = state.hosts().filter(|host| wanted.is_none_or(|wanted| host.state == wanted));
    list::page(&call, &state, hosts, |host: &&Host| host.name.clone(), |host| host)
}

async fn add(call: Call) -> reply::Result {
    let spec: HostSpec = call.json()?;
    let name = spec.name.clone();
    let change = call.change(Command::AddHost(spec)).await?;
    call.show(created(change), change, |state: &State| state.host(&name).cloned()).await
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
    let HostPatch { ip, addresses, labels, info, state } = call.json()?;
    let facts = ip.is_some() || addresses.is_some() || labels.is_some() || info.is_some();
    let command = match state {
        Some(_) if facts => {
            // These need two commands, of which the second could be refused after the first was applied.
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
    let report: ReportBody = call.json()?;
    check_names(&report)?;
    let version = call.api.replica().with_state(State::version);
    let change = call.change(report_command(report, name(&call), version)).await?;
    reply::ok(change.revision, &change)
}

async fn heartbeat(call: Call) -> reply::Result {
    let host = name(&call);
    let HeartbeatBody { version, revision, applied, problems, instance, machine } = call.json()?;
    let replica = call.api.replica();
    let (known, at, agent) = replica.with_state(|state| {
        (state.host(&host).is_some(), state.revision(), state.agent_of(&host).cloned())
    });
    if !known {
        return Err(Refusal::HostNotFound { host }.into());
    }
    let short = |text: String| text.chars().take(PROBLEM_BYTES_MAX / 4).collect::<String>();
    if let (Some(instance), Some(agent)) = (instance, agent)
        && instance != agent
    {
        instance.check()?;
        let refused = RefusedAgent { host: host.clone(), instance, machine: short(machine) };
        replica.agents().refuse(refused);
        return Err(Refusal::HostHasAgent { host, instance: agent }.into());
    }
    let problems = problems.into_iter().take(PROBLEMS_MAX).map(short).collect();
    let version = short(version);
    replica.agents().heartbeat(Heartbeat { host, version, revision, applied, problems });
    reply::ok(at, &Changed { changed: false, revision: at })
}

async fn enrol(call: Call) -> reply::Result {
    let EnrolmentBody { instance, replaces } = call.json()?;
    let enrol = EnrolAgent { host: name(&call), instance, replaces };
    let change = call.change(Command::EnrolAgent(enrol)).await?;
    reply::ok(change.revision, &change)
}

async fn renew_vips(call: Call) -> reply::Result {
    let host = name(&call);
    let VipRenewalBody { instance, run, sequence, held, subnets } = call.json()?;
    let replica = call.api.replica();
    let (known, version, at) = replica
        .with_state(|state| (state.host(&host).is_some(), state.version(), state.revision()));
    if version < VIP_PLACEMENT {
        return Err(Refusal::VersionTooLow { needed: VIP_PLACEMENT, current: version }.into());
    }
    if !known {
        return Err(Refusal::HostNotFound { host }.into());
    }
    instance.check()?;
    let renewal = VipRenewal { host, instance, run, sequence, held, subnets };
    let answer = replica.vips().renew(renewal, call.deadline).await;
    let answer = answer.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
    reply::ok(at, &answer)
}

async fn heartbeats(call: Call) -> reply::Result {
    let replica = call.api.replica();
    let heard = replica.agents().heard_by_leader(call.deadline).await;
    let items = heard.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
    let revision = replica.with_state(State::revision);
    reply::whole(revision, items)
}
