//! `/v1/backup`: the state and its history as a stream; `/v1/restore`: only for clusters that do not exist
//! yet.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use bytes::Bytes;
use futures_util::stream;
use romana_api::backup::Restoration;
use romana_daemon::error::chain;
use romana_replica::backup::take::{Take, TakeError, origin};
use tokio::time::timeout_at;

use super::call::Call;
use super::head::bad_query;
use super::operation::{Accepts, CONSISTENCY, Octets, Operation, Param, Verb, handler, of};
use super::reply;
use crate::budget::{self, Cancel, Permits};
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/backup",
        "backup",
        "A backup: the state and the history up to it, as one stream that ends with a digest of the \
         whole. `romana backup save` writes it to a file and verifies it.",
        &[(200, of::<Octets>)],
        handler!(take),
    )
    .query(&[
        CONSISTENCY,
        Param::optional("history", "`false`: the state alone, without the history (default true)"),
    ])
    .accepts(Accepts::Bytes),
    Operation::new(
        Verb::Post,
        "/v1/restore",
        "backup",
        "Takes a backup and begins a new cluster with it. Only a replica that was started with \
         --await-restore and an empty data directory does that; this one serves a cluster and refuses.",
        &[(200, of::<Restoration>)],
        handler!(restore),
    )
    .body::<Octets>(0)
    .content_types(&["application/octet-stream"])
    .ignores_body(),
];

async fn take(call: Call) -> reply::Result {
    let records = match call.query("history") {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => return Err(bad_query("history", other, "it is neither true nor false")),
    };
    let held = call.api.budgets().backups.take(1, call.deadline).await?;
    let state = call.state().await?;
    let replica = call.api.replica();
    // The history receives an entry's records after the state has applied them.
    let (mut applied, index) = (replica.reads().applied(), state.index());
    let reached =
        timeout_at(call.deadline, applied.wait_for(|next| index == 0 || *next > index.get()));
    if !matches!(reached.await, Ok(Ok(_))) {
        return Err(Failure::new(Code::Unavailable, "the history does not reach the state yet"));
    }
    let origin = origin(replica.cluster_id(), replica.id(), false);
    let history = replica.history().clone();
    let revision = state.revision();
    let begin = move |_: &Cancel| Take::begin(&state, history, origin, records);
    let (begun, held) = budget::work_on(held, begin).await?;
    let take = begun.map_err(|error| Failure::new(Code::Internal, chain(&error)))?;
    let name =
        format!("attachment; filename=\"romana-{}-{revision}.backup\"", replica.cluster_id());
    let body = Body::from_stream(stream::try_unfold((take, held), piece));
    let kind = Accepts::Bytes.types()[0];
    let mut response = reply::raw(StatusCode::OK, revision, kind, body);
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// State of a backup stream, with its permit.
type Stream = (Take, Permits);

/// The next piece, produced once the client has consumed the previous one.
async fn piece((mut take, held): Stream) -> Result<Option<(Bytes, Stream)>, axum::BoxError> {
    let made = tokio::task::spawn_blocking(move || {
        let piece = take.piece();
        (take, held, piece)
    });
    let (take, held, piece) = made.await?;
    let piece = piece.inspect_err(|error: &TakeError| {
        tracing::error!(error = chain(error), "backup aborted");
    })?;
    Ok(piece.map(|bytes| (Bytes::from(bytes), (take, held))))
}

async fn restore(call: Call) -> reply::Result {
    let replica = call.api.replica();
    let why = format!("this replica serves cluster {}", replica.cluster_id());
    Err(Failure::new(Code::ClusterNotEmpty, why).with("cluster_id", replica.cluster_id()))
}
