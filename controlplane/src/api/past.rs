//! `/v1/audit/state|diff|verify|export`: the state as it was, what changed between, the proof that the
//! history leads to the state that is, and the history as a file that others can replay.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use romana_statemachine::{Digest, Revision, State};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::audit::{history_failure, moment};
use super::call::Call;
use super::diff::{Change, diff};
use super::route::{Accepts, CONSISTENCY, LIMIT, Param, Route, Verb, handler};
use super::{addresses, reply, snapshot};
use crate::audit::{Audit, Base, PastError, Proof};
use crate::error::{Code, Failure};
use crate::feed::Topics;
use crate::raft::Replica;

/// Replays at the same time: each may need the memory of a whole state.
static REPLAYS: Semaphore = Semaphore::const_new(2);
/// Longest time for all replicas to read their histories.
const PROVE_MAX: Duration = Duration::from_secs(1800);
/// Records of an export read at a time, and their size.
const CHUNK_RECORDS: usize = 2048;
const CHUNK_BYTES: usize = 1 << 20;
/// Pieces of an export that wait for the client.
const PIECES: usize = 4;

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Verb::Get,
        "/v1/audit/state",
        "audit",
        "The whole state at a revision or time, as GET /v1/snapshot shows it.",
        &[(200, "Snapshot")],
        handler!(state),
    )
    .query(&[
        Param::required("at", "A revision or RFC 3339 time"),
        CONSISTENCY,
    ]),
    Route::new(
        Verb::Get,
        "/v1/audit/diff",
        "audit",
        "What differs between the states at two revisions or times.",
        &[(200, "Diff")],
        handler!(difference),
    )
    .query(&[
        Param::required("from", "A revision or RFC 3339 time"),
        Param::optional("to", "A revision or RFC 3339 time (default: now)"),
        LIMIT,
        CONSISTENCY,
    ]),
    Route::new(
        Verb::Get,
        "/v1/audit/verify",
        "audit",
        "Has every replica read its whole history: chain, checkpoints, and that it leads to the state. \
         May take minutes.",
        &[(200, "Verification")],
        handler!(verify),
    ),
    Route::new(
        Verb::Get,
        "/v1/audit/export",
        "audit",
        "The history as NDJSON that `romana audit replay` rebuilds the state from: a head, one record \
         per line, an end.",
        &[(200, "Record")],
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
            Failure::new(Code::RevisionCompacted, error.to_string()).with("oldest", oldest)
        }
        PastError::History(error) => history_failure(&error),
        error => {
            let why = error.to_string();
            Failure::new(Code::Internal, format!("the past cannot be told: {why}"))
        }
    }
}

/// Does long work on the disk, a few at a time.
async fn replaying<T: Send + 'static>(
    call: &Call,
    work: impl FnOnce(&Audit) -> Result<T, PastError> + Send + 'static,
) -> Result<T, Failure> {
    let slot = REPLAYS.acquire().await;
    let audit = call.api.replica().audit().clone();
    let worked = tokio::task::spawn_blocking(move || work(&audit)).await;
    drop(slot);
    let worked = worked.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    worked.map_err(failure)
}

/// A required point in time, not after `last`.
async fn point(call: &Call, name: &'static str, last: Revision) -> Result<Revision, Failure> {
    addresses::required(call, name)?;
    Ok(moment(call, name, last).await?.unwrap_or(last))
}

async fn state(call: Call) -> reply::Result {
    let last = call.look(State::revision).await?;
    let at = point(&call, "at", last).await?;
    let tell = move |audit: &Audit| {
        let state = audit.state_at(at)?;
        let digest = state.state_digest();
        Ok((state, digest))
    };
    let (state, digest) = replaying(&call, tell).await?;
    snapshot::respond(state, Topics::all(), Some(digest))
}

#[derive(Serialize)]
struct Moment {
    revision: Revision,
    at: romana_statemachine::Millis,
}

impl From<&State> for Moment {
    fn from(state: &State) -> Self {
        Self { revision: state.revision(), at: state.at() }
    }
}

#[derive(Serialize)]
struct Diff {
    from: Moment,
    to: Moment,
    changes: Vec<Change>,
    /// Whether there are more than are shown.
    truncated: bool,
}

async fn difference(call: Call) -> reply::Result {
    let last = call.look(State::revision).await?;
    let from = point(&call, "from", last).await?;
    let to = moment(&call, "to", last).await?.unwrap_or(last);
    let limit = call.limit()?;
    let compare = move |audit: &Audit| {
        let (before, after) = (audit.state_at(from)?, audit.state_at(to)?);
        let (changes, truncated) = diff(&before, &after, limit);
        Ok(Diff { from: (&before).into(), to: (&after).into(), changes, truncated })
    };
    reply::ok(last, &replaying(&call, compare).await?)
}

#[derive(Serialize)]
struct Word {
    id: u64,
    ok: bool,
    #[serde(flatten)]
    proof: Option<Proof>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn verify(call: Call) -> reply::Result {
    let revision = call.look(State::revision).await?;
    let proofs = call.api.replica().prove(revision, Instant::now() + PROVE_MAX).await;
    let first = proofs.values().find_map(|proof| proof.as_ref().ok()).cloned();
    let same = |proof: &Proof| {
        first.as_ref().is_some_and(|first| {
            (proof.digest, proof.state_digest) == (first.digest, first.state_digest)
        })
    };
    let agreed = proofs.values().all(|proof| proof.as_ref().is_ok_and(same));
    let words: Vec<Word> = proofs
        .into_iter()
        .map(|(id, proof)| match proof {
            Ok(proof) => Word { id, ok: true, proof: Some(proof), error: None },
            Err(error) => Word { id, ok: false, proof: None, error: Some(error) },
        })
        .collect();
    reply::ok(revision, &json!({"agreed": agreed, "replicas": words}))
}

async fn export(call: Call) -> reply::Result {
    let last = call.look(State::revision).await?;
    let from = moment(&call, "from", last).await?;
    let to = moment(&call, "to", last).await?.unwrap_or(last);
    let base = replaying(&call, move |audit| audit.base(from)).await?;
    if base.first > to + 1 {
        let why = format!("it would begin at revision {} and end at {to}", base.first);
        return Err(super::call::bad_query("to", &to.to_string(), &why));
    }
    let replica = call.api.replica().clone();
    let head = tokio::task::spawn_blocking({
        let (replica, base) = (replica.clone(), base.clone());
        move || head(&replica, &base, to)
    });
    let head = head.await.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    let head = head.map_err(failure)?;
    let (pieces, queue) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&replica, head, base, to, &pieces) {
            // The file lacks its last line then, and is known to be cut short.
            tracing::warn!(error = &error as &dyn std::error::Error, "export cut short");
        }
    });
    let body = futures_util::stream::unfold(queue, |mut queue| async move {
        let piece: Bytes = queue.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), queue))
    });
    let body = Body::from_stream(body);
    let mut response = reply::raw(StatusCode::OK, to, "application/x-ndjson", body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The first line.
fn head(replica: &Replica, base: &Base, to: Revision) -> Result<Bytes, PastError> {
    let digest: Digest = if to < base.first {
        base.state.digest()
    } else {
        let records = replica.history().read(to, 1, CHUNK_BYTES)?;
        records.first().map(|record| record.digest).unwrap_or_default()
    };
    let state = (base.first > 1).then(|| STANDARD.encode(base.state.snapshot()));
    let mut head = json!({
        "romana_history": 1,
        "cluster_id": replica.status().cluster_id,
        "first": base.first,
        "previous": base.state.digest(),
        "last": to,
        "digest": digest,
    });
    if let (Some(state), Some(head)) = (state, head.as_object_mut()) {
        head.insert("state".into(), state.into());
    }
    Ok(Bytes::from(format!("{head}\n")))
}

/// Writes an export piece by piece, folding as it goes: what does not follow is not exported.
fn write(
    replica: &Replica,
    head: Bytes,
    base: Base,
    to: Revision,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<(), PastError> {
    let mut state = base.state;
    if pieces.blocking_send(head).is_err() {
        return Ok(()); // the client has gone
    }
    while state.revision() < to {
        let next = state.revision() + 1;
        let mut records = replica.history().read(next, CHUNK_RECORDS, CHUNK_BYTES)?;
        records.retain(|record| record.revision <= to);
        let mut piece = BytesMut::with_capacity(CHUNK_BYTES);
        for record in &records {
            state.follow(record)?;
            if serde_json::to_writer((&mut piece).writer(), record).is_err() {
                return Ok(()); // records always have a JSON form
            }
            piece.put_u8(b'\n');
        }
        if records.is_empty() || pieces.blocking_send(piece.freeze()).is_err() {
            return Ok(());
        }
    }
    let (revision, digest) = (state.revision(), state.digest());
    let state_digest = state.state_digest();
    let end =
        json!({"end": {"revision": revision, "digest": digest, "state_digest": state_digest}});
    // Gone or not, it was the last piece.
    _ = pieces.blocking_send(Bytes::from(format!("{end}\n")));
    Ok(())
}
