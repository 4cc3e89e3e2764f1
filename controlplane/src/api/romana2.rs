//! Romana 2.0's paths and formats, so that the OpenStack driver and old scripts keep working.
//! All of the API's 2.0 compatibility is in this file; the rules behind it are the current ones.
//!
//! Improvements over 2.0: errors carry their text and the correct status, retries are idempotent (the same
//! allocation gives the same address, a second release or removal is not an error), `GET /policies/{id}`
//! and both forms of DELETE work, and no request waits longer than its deadline or answers `null` for an object
//! that does not exist.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use romana_api::romana2::{
    Romana2Address, Romana2Block, Romana2Blocks, Romana2Error, Romana2Host, Romana2Hosts,
    Romana2Network, Romana2NewHost, Romana2Policy, Romana2PolicyRef,
};
use romana_statemachine::command::{
    AllocateAddress, HostSource, HostSpec, Labels, PolicyRef, ReleaseAddress,
};
use romana_statemachine::name::{AddressName, PolicyName, SegmentId, TenantId};
use romana_statemachine::policy::Policy;
use romana_statemachine::policy::document::{Document, to_document};
use romana_statemachine::topology::{Network, TopologySpec};
use romana_statemachine::{Answer, Block, Command, Host, Refusal, State};
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::addresses::required;
use super::body::parse;
use super::call::Call;
use super::operation::{
    Accepts, BODY_BYTES_MAX, Operation, Param, ROMANA2_TYPES, SchemaOf, Verb, handler, of,
};
use super::{networks, policies, reply, topology};
use crate::error::{Code, Failure};

const fn row(
    verb: Verb,
    path: &'static str,
    about: &'static str,
    answers: &'static [(u16, SchemaOf)],
    handler: super::operation::Handler,
) -> Operation {
    Operation::new(verb, path, "romana-2.0", about, answers, handler).accepts(Accepts::Romana2)
}

const fn with_body<T: JsonSchema>(route: Operation) -> Operation {
    route.body::<T>(BODY_BYTES_MAX).content_types(&ROMANA2_TYPES)
}

pub(super) const OPERATIONS: &[Operation] = &[
    with_body::<Romana2Address>(row(
        Verb::Post,
        "/address",
        "Allocates an address.",
        &[(200, of::<std::net::IpAddr>)],
        handler!(allocate),
    )),
    row(Verb::Delete, "/address", "Releases an address.", &[(200, of::<()>)], handler!(release))
        .query(&[
            Param::optional("addressName", "Name of the address, or itself"),
            Param::optional("addressIP", "The address; one of the two is required"),
        ]),
    row(
        Verb::Get,
        "/networks",
        "Networks.",
        &[(200, of::<Vec<Romana2Network>>)],
        handler!(list_networks),
    )
    .walks(),
    row(
        Verb::Get,
        "/networks/{network}/blocks",
        "Blocks of a network.",
        &[(200, of::<Romana2Blocks>)],
        handler!(network_blocks),
    )
    .walks(),
    row(Verb::Get, "/blocks", "All blocks.", &[(200, of::<Romana2Blocks>)], handler!(all_blocks))
        .walks(),
    row(
        Verb::Get,
        "/topology",
        "The topology.",
        &[(200, of::<TopologySpec>)],
        handler!(get_topology),
    ),
    with_body::<TopologySpec>(row(
        Verb::Post,
        "/topology",
        "Sets it.",
        &[(200, of::<()>)],
        handler!(set_topology),
    )),
    row(Verb::Get, "/hosts", "Hosts.", &[(200, of::<Romana2Hosts>)], handler!(list_hosts)).walks(),
    with_body::<Romana2NewHost>(row(
        Verb::Post,
        "/hosts",
        "Adds a host.",
        &[(200, of::<()>)],
        handler!(add_host),
    )),
    row(
        Verb::Get,
        "/policies",
        "Policies.",
        &[(200, of::<Vec<Romana2Policy>>)],
        handler!(list_policies),
    )
    .walks(),
    with_body::<Document>(row(
        Verb::Post,
        "/policies",
        "Sets a policy.",
        &[(200, of::<()>)],
        handler!(set_policies),
    )),
    with_body::<Romana2PolicyRef>(row(
        Verb::Delete,
        "/policies",
        "Removes a policy.",
        &[(200, of::<()>)],
        handler!(remove_policy),
    )),
    row(
        Verb::Get,
        "/policies/{id}",
        "A policy.",
        &[(200, of::<Romana2Policy>)],
        handler!(get_policy),
    ),
    row(
        Verb::Delete,
        "/policies/{id}",
        "Removes a policy.",
        &[(200, of::<()>)],
        handler!(remove_policy),
    ),
];

/// 2.0's error body, with the text that 2.0 omitted.
pub(super) fn error(failure: &Failure) -> Response<Body> {
    let problem = failure.problem();
    let text = |key: &str| problem.details.get(key).and_then(Value::as_str);
    let resource = ["address", "network", "host", "tenant", "segment", "policy"]
        .into_iter()
        .find_map(|kind| text(kind).map(|id| (kind, id)));
    let (kind, id) = resource.unwrap_or(("", ""));
    let body = Romana2Error {
        status_code: problem.status.as_u16(),
        details: problem.message.clone(),
        code: problem.code.into(),
        hint: problem.hint.into(),
        resource_type: kind.into(),
        resource_id: id.into(),
        see_also: String::new(),
    };
    failure.respond_with(reply::bytes(&body).unwrap_or_default(), "application/json")
}

/// 2.0 accepted an empty tenant or segment; current names cannot be empty.
fn or_default(name: &str) -> &str {
    if name.is_empty() { "default" } else { name }
}

async fn allocate(call: Call) -> reply::Result {
    let Romana2Address { name, host, tenant, segment } = parse(&call.body)?;
    let ask = AllocateAddress {
        name,
        host,
        tenant: TenantId::from(or_default(&tenant)),
        segment: SegmentId::from(or_default(&segment)),
        network: None,
        ip: None,
    };
    let (revision, answer) = call.propose(Command::AllocateAddress(ask)).await?;
    match answer {
        Answer::Address { allocation, .. } => reply::ok(revision, &allocation.ip),
        Answer::Done { .. } => Err(Failure::new(Code::Internal, "no address was answered")),
    }
}

async fn release(call: Call) -> reply::Result {
    // Some clients have the address only, and say so.
    let address = match call.query("addressIP").filter(|ip| !ip.is_empty()) {
        Some(ip) => AddressName::from(ip),
        None => AddressName::from(required(&call, "addressName")?),
    };
    let change = call.change(Command::ReleaseAddress(ReleaseAddress { address })).await?;
    reply::ok(change.revision, &())
}

fn all_networks(state: &State) -> &[Network] {
    state.topology().map_or(&[], |topology| topology.networks())
}

async fn list_networks(call: Call) -> reply::Result {
    let state = call.state().await?;
    let revision = state.revision();
    let shown = |network: &Network| Romana2Network {
        revision,
        id: network.name.clone(),
        cidr: network.cidr,
    };
    let networks: Vec<_> = all_networks(&state).iter().map(shown).collect();
    reply::ok(revision, &networks)
}

fn show_blocks<'a>(state: &'a State, blocks: impl Iterator<Item = &'a Block>) -> reply::Result {
    let revision = state.revision();
    let shown = |block: &Block| {
        let owner = block.owner();
        Romana2Block {
            revision,
            cidr: block.cidr,
            tenant: owner.tenant.clone(),
            segment: owner.segment.clone(),
            host: owner.host.clone(),
            allocated_ip_count: block.live,
        }
    };
    reply::ok(revision, &Romana2Blocks { revision, blocks: blocks.map(shown).collect() })
}

async fn network_blocks(call: Call) -> reply::Result {
    let state = call.state().await?;
    let network = networks::find(&state, call.path("network"))?;
    show_blocks(&state, networks::blocks(&state, network))
}

async fn all_blocks(call: Call) -> reply::Result {
    let state = call.state().await?;
    show_blocks(&state, state.ipam().blocks())
}

async fn get_topology(call: Call) -> reply::Result {
    let state = call.state().await?;
    match romana_api::topology::document(&state) {
        Some(document) => reply::ok(state.revision(), &document),
        None => Err(topology::not_set()),
    }
}

async fn set_topology(call: Call) -> reply::Result {
    let spec: TopologySpec = call.json()?;
    let change = call.change(Command::SetTopology(spec)).await?;
    reply::ok(change.revision, &())
}

async fn list_hosts(call: Call) -> reply::Result {
    let state = call.state().await?;
    let shown = |host: &Host| Romana2Host {
        ip: host.ip,
        name: host.name.clone(),
        agent_port: 0,
        tags: host.labels.clone(),
        k8s_info: host.info.clone(),
    };
    let revision = state.revision();
    reply::ok(revision, &Romana2Hosts { hosts: state.hosts().map(shown).collect(), revision })
}

async fn add_host(call: Call) -> reply::Result {
    let Romana2NewHost { name, ip, tags, .. } = call.json()?;
    let spec = HostSpec {
        name,
        ip,
        addresses: Vec::new(),
        labels: tags.unwrap_or_default(),
        info: Labels::new(),
        source: HostSource::Operator,
    };
    let change = call.change(Command::AddHost(spec)).await?;
    reply::ok(change.revision, &())
}

/// A policy in 2.0's schema: `id` instead of `name`, one list of peers and rules, `tenant_id`.
fn policy(policy: &Policy) -> Result<Value, Failure> {
    let document = serde_json::to_value(to_document(policy));
    let mut document =
        document.map_err(|why| Failure::new(Code::Internal, format!("the policy: {why}")))?;
    rename(&mut document);
    if let Value::Object(members) = &mut document {
        if let Some(name) = members.remove("name") {
            members.insert("id".into(), name);
        }
        if let (Some(peers), Some(rules)) = (members.remove("peers"), members.remove("rules")) {
            let list = if policy.isolates_ingress { "ingress" } else { "egress" };
            members.insert(list.into(), json!([{"peers": peers, "rules": rules}]));
        }
    }
    Ok(document)
}

fn rename(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(rename),
        Value::Object(members) => {
            for (new, old) in [("tenant", "tenant_id"), ("segment", "segment_id")] {
                if let Some(value) = members.remove(new) {
                    members.insert(old.into(), value);
                }
            }
            let lists = ["applied_to", "peers", "ingress", "egress"];
            members
                .iter_mut()
                .filter(|(name, _)| lists.contains(&name.as_str()))
                .for_each(|(_, value)| rename(value));
        }
        _ => {}
    }
}

async fn list_policies(call: Call) -> reply::Result {
    let state = call.state().await?;
    let policies: Vec<Value> = state.policies().map(policy).collect::<Result<_, _>>()?;
    reply::ok(state.revision(), &policies)
}

async fn set_policies(call: Call) -> reply::Result {
    let policies = policies::read(&call)?;
    let change = policies::set(&call, policies).await?;
    reply::ok(change.revision, &())
}

async fn get_policy(call: Call) -> reply::Result {
    let state = call.state().await?;
    let id = PolicyName::from(call.path("id"));
    match state.policy(&id) {
        Some(found) => reply::ok(state.revision(), &policy(found)?),
        None => Err(Refusal::PolicyNotFound { policy: id }.into()),
    }
}

async fn remove_policy(call: Call) -> reply::Result {
    let mut id = call.path("id").to_owned();
    if id.is_empty() && call.body.is_empty() {
        let why = "Request must either be to /policies/{policyID} or have a body.";
        return Err(Failure::new(Code::MalformedBody, why).with("field", "."));
    }
    if id.is_empty() {
        id = match call.json::<Romana2PolicyRef>()?.id {
            Value::String(id) => id,
            Value::Number(id) if id.is_u64() => id.to_string(),
            Value::Null => String::new(),
            _ => {
                let why = "the id is a text or a whole number";
                return Err(Failure::new(Code::MalformedBody, why).with("field", "id"));
            }
        };
    }
    if id.is_empty() {
        let why = "Policy ID not found in input";
        return Err(Failure::new(Code::MalformedBody, why).with("field", "id"));
    }
    let name = PolicyName::from(id);
    let change = call.change(Command::RemovePolicy(PolicyRef { name })).await?;
    reply::json(StatusCode::OK, change.revision, &())
}
