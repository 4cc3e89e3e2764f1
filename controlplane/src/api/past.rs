//! `/v1/audit/state|diff|verify|export`: past states, the difference between two of them, the proof that the
//! history leads to the current state, and the history as a file that can be replayed elsewhere.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::try_unfold;
use romana_api::audit::{
    Difference, ExportEnd, ExportHeader, ExportLast, Proof, Verification, Verified,
};
use romana_api::feed::RecordLine;
use romana_api::snapshot::Snapshot;
use romana_replica::Replica;
use romana_replica::audit::{Audit, Base, PastError};
use romana_replica::feed::Topics;
use romana_replica::retention;
use romana_statemachine::audit::Moment;
use romana_statemachine::{Digest, FollowError, Record, Revision, State};
use tokio::time::Instant;

use super::audit::{history_failure, moment};
use super::call::Call;
use super::diff::diff;
use super::operation::{Accepts, CONSISTENCY, LIMIT, Operation, Param, Verb, handler, of};
use super::{addresses, reply, snapshot};
use crate::budget::{self, Cancel, Permits};
use crate::error::{Code, Failure};

/// Longest time for all replicas to verify their histories.
const PROVE_MAX: Duration = Duration::from_secs(1800);
/// Longest time for all replicas to report where their histories begin.
const BEGINNING_MAX: Duration = Duration::from_secs(5);
/// Records and bytes of an export read at a time; as JSON they are about three times larger.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: usize = 64 << 10;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/audit/state",
        "audit",
        "The whole state at a revision or time, as GET /v1/snapshot shows it.",
        &[(200, of::<Snapshot>)],
        handler!(state),
    )
    .query(&[
        Param::required("at", "A revision or RFC 3339 time"),
        CONSISTENCY,
    ]),
    Operation::new(
        Verb::Get,
        "/v1/audit/diff",
        "audit",
        "What differs between the states at two revisions or times.",
        &[(200, of::<Difference>)],
        handler!(difference),
    )
    .query(&[
        Param::required("from", "A revision or RFC 3339 time"),
        Param::optional("to", "A revision or RFC 3339 time (default: now)"),
        LIMIT,
        CONSISTENCY,
    ]),
    Operation::new(
        Verb::Get,
        "/v1/audit/verify",
        "audit",
        "Has every replica read its whole history: chain, checkpoints, and that it leads to the state. \
         May take minutes.",
        &[(200, of::<Verification>)],
        handler!(verify),
    ),
    Operation::new(
        Verb::Get,
        "/v1/audit/export",
        "audit",
        "The history as NDJSON that `romana audit replay` rebuilds the state from: a head, one record \
         per line, an end.",
        &[(200, of::<RecordLine<Record>>)],
        handler!(export),
    )
    .query(&[
        Param::optional("from", "First revision or RFC 3339 time (default: the oldest that can be)"),
        Param::optional("to", "Last revision or RFC 3339 time (default: now)"),
        CONSISTENCY,
    ])
    .accepts(Accepts::Feed),
];

fn failure(error: PastError) -> Failure {
    match error {
        PastError::Gone { oldest, .. } => {
            Failure::new(Code::RevisionCompacted, error.to_string()).with("oldest", oldest.get())
        }
        PastError::History(error) => history_failure(&error),
        error => {
            let why = error.to_string();
            Failure::new(Code::Internal, format!("the past cannot be told: {why}"))
        }
    }
}

/// Runs long work on the disk, with limited concurrency.
async fn replaying<T: Send + 'static>(
    call: &Call,
    work: impl FnOnce(&Audit, &Cancel) -> Result<T, PastError> + Send + 'static,
) -> Result<T, Failure> {
    let audit = call.api.replica().audit().clone();
    let replays = &call.api.budgets().replays;
    call.work(replays, move |cancel| work(&audit, cancel)).await?.map_err(failure)
}

/// Resolves a required point in time, not after `last`.
async fn point(call: &Call, name: &'static str, last: Revision) -> Result<Revision, Failure> {
    addresses::required(call, name)?;
    Ok(moment(call, name, last).await?.unwrap_or(last))
}

async fn state(call: Call) -> reply::Result {
    let last = call.look(State::revision).await?;
    let at = point(&call, "at", last).await?;
    let held = call.api.budgets().states.take(1, call.deadline).await?;
    let tell = move |audit: &Audit, cancel: &Cancel| {
        let state = audit.state_at(at, cancel)?;
        let digest = state.state_digest();
        Ok((state, digest))
    };
    let (state, digest) = replaying(&call, tell).await?;
    snapshot::respond(state, Topics::all(), Some(digest), held)
}

fn moment_of(state: &State) -> Moment {
    Moment { revision: state.revision(), at: state.at() }
}

async fn difference(call: Call) -> reply::Result {
    let last = call.look(State::revision).await?;
    let from = point(&call, "from", last).await?;
    let to = moment(&call, "to", last).await?.unwrap_or(last);
    let limit = call.limit()?;
    let compare = move |audit: &Audit, cancel: &Cancel| {
        let (before, after) = (audit.state_at(from, cancel)?, audit.state_at(to, cancel)?);
        let (changes, truncated) = diff(&before, &after, limit);
        let diff =
            Difference { from: moment_of(&before), to: moment_of(&after), changes, truncated };
        Ok(reply::ok(last, &diff))
    };
    replaying(&call, compare).await?
}

async fn verify(call: Call) -> reply::Result {
    // Every replica reads its whole history: run one proof at a time.
    let _permits = call.api.budgets().proofs.take(1, call.deadline).await?;
    let revision = call.look(State::revision).await?;
    let proofs = call.api.replica().evidence().prove(revision, Instant::now() + PROVE_MAX).await;
    let first = proofs.values().find_map(|proof| proof.as_ref().ok()).cloned();
    let same = |proof: &Proof| {
        first.as_ref().is_some_and(|first| {
            (proof.digest, proof.state_digest) == (first.digest, first.state_digest)
        })
    };
    let beginnings = call.api.replica().evidence().beginnings(Instant::now() + BEGINNING_MAX).await;
    let signed = call.look(|state| state.signed().map(|signed| signed.revision)).await?;
    let differences = retention::differences(&beginnings, signed.unwrap_or_default());
    let agreed =
        proofs.values().all(|proof| proof.as_ref().is_ok_and(same)) && differences.is_empty();
    let replicas = proofs
        .into_iter()
        .map(|(id, proof)| match proof {
            Ok(proof) => Verified { id, ok: true, proof: Some(proof), error: None },
            Err(error) => Verified { id, ok: false, proof: None, error: Some(error) },
        })
        .collect();
    reply::ok(revision, &Verification { agreed, differences, replicas })
}

async fn export(call: Call) -> reply::Result {
    let held = call.api.budgets().exports.take(1, call.deadline).await?;
    let last = call.look(State::revision).await?;
    let from = moment(&call, "from", last).await?;
    let to = moment(&call, "to", last).await?.unwrap_or(last);
    let base = replaying(&call, move |audit, cancel| audit.base(from, cancel)).await?;
    if base.first > to.next() {
        let why = format!("it would begin at revision {} and end at {to}", base.first);
        return Err(super::head::bad_query("to", &to.to_string(), &why));
    }
    let replica = call.api.replica().clone();
    let begin = move |_: &Cancel| Export::begin(replica, base, to);
    let (begun, held) = budget::work_on(held, begin).await?;
    let export = begun.map_err(failure)?;
    let body = Body::from_stream(try_unfold((export, held), piece));
    let mut response = reply::raw(StatusCode::OK, to, "application/x-ndjson", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// An export in progress, produced at the pace of the reader.
struct Export {
    replica: Replica,
    head: Option<Bytes>,
    /// The state after the records written so far.
    state: State,
    to: Revision,
    ended: bool,
}

/// The next piece, produced once the client has consumed the previous one.
async fn piece(
    (mut export, held): (Export, Permits),
) -> Result<Option<(Bytes, (Export, Permits))>, axum::BoxError> {
    let make = move |_: &Cancel| (export.piece(), export);
    let ((piece, export), held) = budget::work_on(held, make)
        .await
        .map_err(|failure| std::io::Error::other(failure.problem().message.clone()))?;
    // The file then lacks its last line, which shows that it is incomplete.
    let piece = piece.inspect_err(|error: &PastError| {
        tracing::warn!(error = error as &dyn std::error::Error, "export aborted");
    })?;
    Ok(piece.map(|bytes| (bytes, (export, held))))
}

impl Export {
    fn begin(replica: Replica, base: Base, to: Revision) -> Result<Self, PastError> {
        let head = Some(head(&replica, &base, to)?);
        Ok(Self { replica, head, state: base.state, to, ended: false })
    }

    /// The next piece; `None` after the last. Replays as it goes: a record that does not continue the chain is not
    /// exported. Blocks on the disk.
    fn piece(&mut self) -> Result<Option<Bytes>, PastError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        if self.state.revision() < self.to {
            return self.records().map(Some);
        }
        if std::mem::replace(&mut self.ended, true) {
            return Ok(None);
        }
        let end = ExportEnd {
            revision: self.state.revision(),
            digest: self.state.digest(),
            state_digest: self.state.state_digest(),
        };
        line(&ExportLast { end }).map(Some)
    }

    fn records(&mut self) -> Result<Bytes, PastError> {
        let next = self.state.revision().next();
        let mut records = self.replica.history().read(next, CHUNK_RECORDS, CHUNK_BYTES)?;
        records.retain(|record| record.revision <= self.to);
        if records.is_empty() {
            let (have, got) = (self.state.revision(), self.to);
            return Err(FollowError::Gap { have, got }.into());
        }
        let mut piece = BytesMut::with_capacity(4 * CHUNK_BYTES);
        for record in &records {
            self.state.follow(record)?;
            // Records always serialize.
            _ = serde_json::to_writer((&mut piece).writer(), record);
            piece.put_u8(b'\n');
        }
        Ok(piece.freeze())
    }
}

/// The first line of an export.
fn head(replica: &Replica, base: &Base, to: Revision) -> Result<Bytes, PastError> {
    let digest: Digest = if to < base.first {
        base.state.digest()
    } else {
        let records = replica.history().read(to, 1, CHUNK_BYTES)?;
        records.first().map(|record| record.digest).unwrap_or_default()
    };
    let state = (base.first > 1).then(|| STANDARD.encode(base.state.snapshot()));
    line(&ExportHeader {
        romana_history: 1,
        cluster_id: replica.members().status().cluster_id,
        first: base.first,
        previous: base.state.digest(),
        last: to,
        digest,
        state,
    })
}

/// One line of the file.
fn line(value: &impl serde::Serialize) -> Result<Bytes, PastError> {
    let mut line = BytesMut::new();
    // These values always serialize.
    _ = serde_json::to_writer((&mut line).writer(), value);
    line.put_u8(b'\n');
    Ok(line.freeze())
}
