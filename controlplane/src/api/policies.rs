//! `/v1/policies`: accepts Romana's own document form and Romana 2.0's; answers in Romana's own form.

use axum::http::StatusCode;
use romana_api::policy::{PoliciesExplained, PoliciesSet, PolicyExplained, VerdictChange};
use romana_api::{Changed, Page};
use romana_statemachine::command::PolicyRef;
use romana_statemachine::limits::ENTRY_COMMANDS_MAX;
use romana_statemachine::name::PolicyName;
use romana_statemachine::policy::compare::{Change, Comparison, Reach, compare, reach};
use romana_statemachine::policy::document::{self, Document, PolicyDocument, to_document};
use romana_statemachine::policy::{Policy, Target, describe};
use romana_statemachine::{Command, Refusal, Revision, State, plural};

use super::call::{Call, created};
use super::operation::{
    BODY_BYTES_MAX, CONSISTENCY, CONTINUE, LIMIT, Operation, Verb, handler, of,
};
use super::{list, reply};
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/policies",
        "policies",
        "Policies, by name.",
        &[(200, of::<Page<PolicyDocument>>)],
        handler!(list),
    )
    .query(&[LIMIT, CONTINUE, CONSISTENCY]),
    Operation::new(
        Verb::Post,
        "/v1/policies",
        "policies",
        "Creates or replaces policies: all of the document, or none if one of them is not valid.",
        &[(201, of::<PoliciesSet>), (200, of::<PoliciesSet>)],
        handler!(post),
    )
    .body::<Document>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Post,
        "/v1/policies/check",
        "policies",
        "Validates policies and explains what they would do. Commits nothing.",
        &[(200, of::<PoliciesExplained>)],
        handler!(check),
    )
    .body::<Document>(BODY_BYTES_MAX)
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Get,
        "/v1/policies/{name}",
        "policies",
        "A policy.",
        &[(200, of::<PolicyDocument>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Put,
        "/v1/policies/{name}",
        "policies",
        "Creates or replaces a policy. A name in the body must be that in the path.",
        &[(201, of::<PolicyDocument>), (200, of::<PolicyDocument>)],
        handler!(put),
    )
    .body::<PolicyDocument>(BODY_BYTES_MAX),
    Operation::new(
        Verb::Delete,
        "/v1/policies/{name}",
        "policies",
        "Removes a policy.",
        &[(200, of::<Changed>)],
        handler!(delete),
    ),
];

/// Ranges named in a sentence; the others are only counted.
const RANGES_NAMED: usize = 10;

fn changing(change: Change) -> VerdictChange {
    let Change { source, destination, opens, closes } = change;
    VerdictChange {
        source: source.ip,
        source_range: source.range,
        destination: destination.ip,
        destination_range: destination.range,
        opens,
        closes,
    }
}

/// Warns about a policy that may cut off hosts: they are hard to reach afterwards.
fn warning(policy: &Policy) -> Option<String> {
    let hosts = policy.applied_to.contains(&Target::Host);
    let directions = match (policy.isolates_ingress, policy.isolates_egress) {
        (true, true) => "receive and send",
        (true, false) => "receive",
        _ => "send",
    };
    hosts.then(|| {
        format!(
            "{} applies to hosts: they {directions} only what policies allow, and TCP 9600, 9601 and the ports \
             of their agents' --server",
            policy.name
        )
    })
}

/// Parses a document and checks every policy in it.
pub(super) fn read(call: &Call) -> Result<Vec<Policy>, Failure> {
    let document: Document = call.json()?;
    let policies = document::parse(&document)?;
    if policies.len() > ENTRY_COMMANDS_MAX {
        let (size, max) = (policies.len() as u64, ENTRY_COMMANDS_MAX as u64);
        return Err(Refusal::TooLarge { field: "securitypolicies".into(), size, max }.into());
    }
    policies.iter().try_for_each(Policy::check)?;
    Ok(policies)
}

/// Sets policies that were checked, and returns the combined change.
pub(super) async fn set(call: &Call, policies: Vec<Policy>) -> Result<Changed, Failure> {
    let mut changed = Changed { changed: false, revision: Revision(0) };
    if policies.is_empty() {
        changed.revision = call.api.replica().with_state(State::revision);
        return Ok(changed);
    }
    let commands = policies.into_iter().map(Command::SetPolicy).collect();
    for outcome in call.propose_all(commands).await? {
        changed.revision = outcome.revision;
        let answer = outcome.result?;
        let same = matches!(answer, romana_statemachine::Answer::Done { changed: false });
        changed.changed |= !same;
    }
    Ok(changed)
}

async fn list(call: Call) -> reply::Result {
    let state = call.state().await?;
    list::page(&call, &state, state.policies(), |policy| policy.name.clone(), to_document)
}

async fn post(call: Call) -> reply::Result {
    let policies = read(&call)?;
    let names = policies.iter().map(|policy| policy.name.clone()).collect();
    let change = set(&call, policies).await?;
    let Changed { changed, revision } = change;
    reply::json(created(change), revision, &PoliciesSet { changed, revision, policies: names })
}

async fn check(call: Call) -> reply::Result {
    let policies = read(&call)?;
    let state = call.state().await?;
    let revision = state.revision();
    let plans = &call.api.budgets().plans;
    let explained = call.work(plans, move |_| preview(&state, &policies)).await?;
    reply::ok(revision, &explained)
}

/// Predicts the effect of policies. Evaluates every known address, other addresses by range, and many pairs of them.
fn preview(state: &State, policies: &[Policy]) -> PoliciesExplained {
    let compared = compare(state, policies);
    let not_looked_at = not_looked_at(&compared);
    let truncated = compared.pairs_left > 0 || !compared.ranges_left.is_empty();
    let Comparison { changes, changed, pairs, ranges, .. } = compared;
    PoliciesExplained {
        policies: policies.iter().map(|policy| explain(state, policy)).collect(),
        changes: changes.into_iter().map(changing).collect(),
        changed: changed as u64,
        pairs: pairs as u64,
        truncated,
        ranges,
        not_looked_at,
        warnings: policies.iter().filter_map(warning).collect(),
        revision: state.revision(),
    }
}

/// What was not evaluated, and may change without being listed.
fn not_looked_at(compared: &Comparison) -> Vec<String> {
    let Comparison { pairs_left, ranges_left, unallocated, .. } = compared;
    let mut left = Vec::new();
    if *pairs_left > 0 {
        left.push(format!("{}, as there are too many", plural(*pairs_left, "more pair")));
    }
    if !ranges_left.is_empty() {
        let named: Vec<_> =
            ranges_left.iter().take(RANGES_NAMED).map(ToString::to_string).collect();
        let more = ranges_left.len() - named.len();
        let more = match more {
            0 => String::new(),
            more => format!(" and {}", plural(more, "more range")),
        };
        left.push(format!("other addresses in {}{more}", named.join(", ")));
    }
    if *unallocated {
        left.push("addresses of blocks that are not allocated".into());
    }
    left
}

fn explain(state: &State, policy: &Policy) -> PolicyExplained {
    let present = state.policy(&policy.name);
    let Reach { endpoints, hosts, ranges } = reach(state, policy);
    PolicyExplained {
        name: policy.name.clone(),
        exists: present.is_some(),
        unchanged: present == Some(policy),
        endpoints: endpoints as u64,
        hosts: hosts as u64,
        ranges,
        explanation: describe::sentences(policy),
        policy: to_document(policy),
    }
}

async fn get(call: Call) -> reply::Result {
    let state = call.state().await?;
    let policy = PolicyName::from(call.path("name"));
    match state.policy(&policy) {
        Some(policy) => reply::ok(state.revision(), &to_document(policy)),
        None => Err(Refusal::PolicyNotFound { policy }.into()),
    }
}

async fn put(call: Call) -> reply::Result {
    let name = call.path("name").to_owned();
    let mut one: PolicyDocument = call.json()?;
    for (field, given) in [("name", &one.name), ("id", &one.id)] {
        if given.as_deref().is_some_and(|given| given != name) {
            let message = format!("{field} in the body is not {name:?}, the name in the path");
            return Err(Failure::new(Code::MalformedBody, message).with("field", field));
        }
    }
    one.name = Some(name.clone());
    let policies = document::parse(&Document { securitypolicies: vec![one] })?;
    policies.iter().try_for_each(Policy::check)?;
    let change = set(&call, policies).await?;
    let name = PolicyName::from(name);
    call.show(created(change), change, |state: &State| state.policy(&name).map(to_document)).await
}

async fn delete(call: Call) -> reply::Result {
    let name = PolicyName::from(call.path("name"));
    let change = call.change(Command::RemovePolicy(PolicyRef { name })).await?;
    reply::json(StatusCode::OK, change.revision, &change)
}
