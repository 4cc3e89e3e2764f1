//! Batches commands of concurrent callers into `POST /v1/batch`.
//!
//! ```text
//!   callers ──► queue (bounded) ──► whatever waits when a slot is free ──► one request
//!                                   slots: a few batches in flight          │
//!   callers ◄───────────────────── one answer per command ◄────────────────┘
//! ```
//!
//! There is no delay to fill a batch: a single command is sent at once, and under load a batch is what queued
//! up while all slots were in use. Callers serialize their commands in parallel; the gatherer only joins the
//! JSON. Each command has its own outcome: a refusal does not affect the others.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::Method;
use romana_api::batch::BatchItem;
use romana_statemachine::Command;
use romana_statemachine::limits::ENTRY_COMMANDS_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::call::{Answered, Core, in_doubt};
use crate::error::Error;
use crate::model::{Done, outcome};
use crate::retry::Nature;
use crate::transport::Ask;

/// Limit of queued commands; further callers wait.
const QUEUE_MAX: usize = 16_384;
/// Limit of batches in flight.
const IN_FLIGHT_MAX: usize = 3;
/// Limit of commands in a batch.
const BATCH_COMMANDS_MAX: usize = ENTRY_COMMANDS_MAX;
/// Size limit of a batch, bytes; a larger command is sent alone.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The queue of a client's commands.
#[derive(Debug)]
pub(crate) struct Gatherer {
    queue: mpsc::Sender<Waiting>,
}

/// A queued command.
#[derive(Debug)]
struct Waiting {
    json: Vec<u8>,
    idempotent: bool,
    deadline: Instant,
    answer: oneshot::Sender<Result<Done, Error>>,
}

impl Gatherer {
    /// Starts the sending task; it ends when the gatherer is dropped and the queue is empty.
    pub(crate) fn start(core: Core) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(core, waiting));
        Self { queue }
    }

    /// Queues a command and waits for its outcome.
    pub(crate) async fn submit(&self, command: &Command, deadline: Instant) -> Result<Done, Error> {
        let json = serde_json::to_vec(command)
            .map_err(|error| Error::config(format!("not expressible as JSON: {error}")))?;
        let (answer, outcome) = oneshot::channel();
        let idempotent = command.meta().idempotent;
        let waiting = Waiting { json, idempotent, deadline, answer };
        match timeout_at(deadline, self.queue.send(waiting)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(unavailable("the client is shut down")),
            Err(_) => return Err(unavailable("the queue of this client stayed full")),
        }
        // The task observes the deadline too, and may know more about the outcome.
        let grace = std::time::Duration::from_millis(100);
        match timeout_at(deadline + grace, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(unknown("no outcome arrived in time")),
        }
    }
}

fn unavailable(why: &str) -> Error {
    Error::Unavailable { why: why.into(), source: None }
}

fn unknown(why: &str) -> Error {
    Error::Unknown { why: why.into(), source: None }
}

async fn run(core: Core, mut queue: mpsc::Receiver<Waiting>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let mut waiting = Vec::new();
        if queue.recv_many(&mut waiting, BATCH_COMMANDS_MAX).await == 0 {
            return;
        }
        // Callers that were answered together submit again together: let them all queue first.
        tokio::task::yield_now().await;
        while waiting.len() < BATCH_COMMANDS_MAX {
            let Ok(next) = queue.try_recv() else { break };
            waiting.push(next);
        }
        tokio::spawn(send_all(core.clone(), waiting, slot));
    }
}

/// Sends the commands taken from the queue, in as many requests as their size requires.
async fn send_all(core: Core, waiting: Vec<Waiting>, _slot: OwnedSemaphorePermit) {
    let now = Instant::now();
    let mut batch = Vec::with_capacity(waiting.len());
    let mut bytes = 0;
    for command in waiting {
        if command.answer.is_closed() {
            continue; // The caller has gone and the command was never sent: drop it.
        }
        if command.deadline <= now {
            _ = command.answer.send(Err(unavailable("it was not sent in time")));
            continue;
        }
        if bytes + command.json.len() > BATCH_BYTES_MAX && !batch.is_empty() {
            send_batch(&core, std::mem::take(&mut batch)).await;
            bytes = 0;
        }
        bytes += command.json.len() + 1;
        batch.push(command);
    }
    send_batch(&core, batch).await;
}

/// Sends one batch. If its outcome is unknown and some commands must not be
/// repeated, only the others are retried.
async fn send_batch(core: &Core, batch: Vec<Waiting>) {
    let idempotent = batch.iter().all(|command| command.idempotent);
    let nature = if idempotent { Nature::Idempotent } else { Nature::Once };
    match attempt(core, &batch, nature).await {
        Ok((items, doubt)) => deliver(batch, items, doubt.as_deref()),
        Err(error) if error.may_have_happened() && !idempotent => {
            let (again, once) = batch.into_iter().partition(|command| command.idempotent);
            fail(once, &error);
            let doubt = error.to_string();
            match attempt(core, &again, Nature::Idempotent).await {
                Ok((items, _)) => deliver(again, items, Some(&doubt)),
                Err(error) => fail(again, &in_doubt(error, Some(&doubt))),
            }
        }
        Err(error) => fail(batch, &error),
    }
}

/// Outcomes in the order of the commands, and why earlier attempts may have been committed, if so.
async fn attempt(
    core: &Core,
    batch: &[Waiting],
    nature: Nature,
) -> Result<(Vec<BatchItem>, Option<String>), Error> {
    let Some(deadline) = batch.iter().map(|command| command.deadline).max() else {
        return Ok((Vec::new(), None));
    };
    let ask = Ask::new(Method::POST, "/v1/batch", Some(body(batch)));
    let Answered { reply, doubt } = core.call_until(&ask, nature, deadline).await?;
    let items: Vec<BatchItem> = serde_json::from_slice(&reply.body)
        .map_err(|error| unknown(&format!("the answer cannot be read: {error}")))?;
    if items.len() != batch.len() {
        return Err(unknown("the answer has another number of outcomes than there were commands"));
    }
    Ok((items, doubt))
}

/// The JSON array of the commands.
fn body(batch: &[Waiting]) -> Bytes {
    let bytes: usize = batch.iter().map(|command| command.json.len() + 1).sum();
    let mut body = BytesMut::with_capacity(bytes + 1);
    for (at, command) in batch.iter().enumerate() {
        body.extend_from_slice(if at == 0 { b"[" } else { b"," });
        body.extend_from_slice(&command.json);
    }
    body.extend_from_slice(b"]");
    body.freeze()
}

/// Delivers the outcomes. Callers that have gone are ignored.
fn deliver(batch: Vec<Waiting>, items: Vec<BatchItem>, doubt: Option<&str>) {
    for (command, item) in batch.into_iter().zip(items) {
        let outcome = match outcome(item) {
            Some(Ok(done)) => Ok(done),
            Some(Err(refusal)) => Err(in_doubt(Error::Refused(Box::new(refusal)), doubt)),
            None => Err(unknown("the answer has neither result nor error")),
        };
        _ = command.answer.send(outcome);
    }
}

fn fail(batch: Vec<Waiting>, error: &Error) {
    for command in batch {
        _ = command.answer.send(Err(error.clone()));
    }
}
