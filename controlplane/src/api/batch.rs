//! `POST /v1/batch`: many independent commands in one round of consensus.

use axum::body::Body;
use axum::http::StatusCode;
use romana_api::batch::BatchItem;
use romana_statemachine::limits::ENTRY_COMMANDS_MAX;
use romana_statemachine::name::AddressName;
use romana_statemachine::{Command, Outcome, Refusal};

use super::body::parse;
use super::call::Call;
use super::operation::{BATCH_BYTES_MAX, Operation, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Post,
    "/v1/batch",
    "batch",
    "Carries out commands in order, each on its own: a refusal leaves the others. One result each. \
     Any other failure is one of the whole batch.",
    &[(200, of::<Vec<BatchItem>>)],
    handler!(batch),
)
.body::<Vec<Command>>(BATCH_BYTES_MAX)];

async fn batch(call: Call) -> reply::Result {
    let commands: Vec<Command> = parse(&call.body)?;
    if commands.len() > ENTRY_COMMANDS_MAX {
        let (size, max) = (commands.len() as u64, ENTRY_COMMANDS_MAX as u64);
        return Err(Refusal::TooLarge { field: "the batch".into(), size, max }.into());
    }
    if commands.is_empty() {
        let revision = call.api.replica().with_state(romana_statemachine::State::revision);
        return reply::ok(revision, &[(); 0]);
    }
    let mut kinds = commands.iter().map(Command::meta).enumerate();
    if let Some((at, meta)) = kinds.find(|(_, meta)| !meta.batchable) {
        let message = format!("{}, command {at}, is not for batches", meta.name);
        return Err(Failure::new(Code::NotInBatch, message).with("command", at));
    }
    commands.iter().try_for_each(check_names)?;
    let outcomes = call.propose_all(commands).await?;
    let now = || call.api.replica().with_state(romana_statemachine::State::revision);
    let revision = outcomes.last().map_or_else(now, |outcome| outcome.revision);
    let results: Vec<BatchItem> = outcomes.into_iter().map(done).collect();
    let body = Body::from(reply::bytes(&results)?);
    Ok(reply::raw(StatusCode::OK, revision, "application/json", body))
}

/// Refuses reports with invalid names; the state machine checks the names in other commands.
fn check_names(command: &Command) -> Result<(), Refusal> {
    match command {
        Command::ReportHost(report) => report.running.iter().try_for_each(AddressName::check),
        Command::ReportAttachments(report) => {
            let attached = report.running.iter().map(|attached| &attached.name);
            attached.chain(&report.kept).try_for_each(AddressName::check)
        }
        _ => Ok(()),
    }
}

fn done(outcome: Outcome) -> BatchItem {
    match outcome.result {
        Ok(answer) => BatchItem { revision: outcome.revision, answer: Some(answer), error: None },
        Err(refusal) => {
            let error = Some(Failure::from(refusal).into_error());
            BatchItem { revision: outcome.revision, answer: None, error }
        }
    }
}
