//! `/v1/cluster` and `/v1/digest`: the replicas, and the proof that they agree.

use romana_statemachine::limits::NAMES_LISTED_MAX;
use romana_statemachine::name::HostName;
use romana_statemachine::{Digest, Revision};
use serde::Serialize;

use super::call::Call;
use super::reply;
use super::route::{CONSISTENCY, Route, Verb, handler};
use crate::raft::ClusterStatus;

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

/// The replicas, and whether allocation is held.
#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    cluster: ClusterStatus,
    /// `null`: it is not.
    held: Option<Held>,
}

/// Why nothing fresh is allocated: the cluster was restored.
#[derive(Serialize)]
struct Held {
    /// Revision of the restore.
    since: Revision,
    /// How many hosts have not reported since.
    waiting: usize,
    /// Some of them.
    hosts: Vec<HostName>,
}

async fn status(call: Call) -> reply::Result {
    let replica = call.api.replica();
    let (revision, held) = replica.with_state(|state| {
        let held = state.held().map(|held| Held {
            since: held.since,
            waiting: held.waiting.len(),
            hosts: held.waiting.iter().take(NAMES_LISTED_MAX).cloned().collect(),
        });
        (state.revision(), held)
    });
    reply::ok(revision, &Status { cluster: replica.status(), held })
}

async fn digest(call: Call) -> reply::Result {
    let state = call.state().await?;
    reply::ok(state.revision(), &Shown { revision: state.revision(), digest: state.digest() })
}
