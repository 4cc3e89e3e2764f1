//! `/v1/cluster` and `/v1/digest`: the replicas, and the proof that they agree.

use romana_statemachine::{Digest, Revision};
use serde::Serialize;

use super::call::Call;
use super::reply;
use super::route::{CONSISTENCY, Route, Verb, handler};

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Verb::Get,
        "/v1/cluster",
        "cluster",
        "Replicas, leader and term as this replica knows them.",
        &[(200, "Cluster")],
        handler!(status),
    ),
    Route::new(
        Verb::Get,
        "/v1/digest",
        "cluster",
        "Revision and digest of the history. Equal revisions have equal digests on all replicas.",
        &[(200, "Digest")],
        handler!(digest),
    )
    .query(&[CONSISTENCY]),
];

#[derive(Serialize)]
struct Shown {
    revision: Revision,
    digest: Digest,
}

async fn status(call: Call) -> reply::Result {
    let revision = call.api.replica().with_state(romana_statemachine::State::revision);
    reply::ok(revision, &call.api.replica().status())
}

async fn digest(call: Call) -> reply::Result {
    let state = call.state().await?;
    reply::ok(state.revision(), &Shown { revision: state.revision(), digest: state.digest() })
}
