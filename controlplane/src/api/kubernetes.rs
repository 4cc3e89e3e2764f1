//! `/v1/kubernetes`: the Kubernetes cluster that the leader follows, and the confirmation of what it holds back.

use romana_api::Changed;
use romana_api::kubernetes::{ConfirmBody, Kubernetes};
use romana_statemachine::command::FollowKubernetes;
use romana_statemachine::{Command, State};

use super::call::Call;
use super::operation::{BODY_BYTES_MAX, CONSISTENCY, Operation, Verb, handler, of};
use super::reply;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        Verb::Get,
        "/v1/kubernetes",
        "kubernetes",
        "The Kubernetes cluster whose objects are imported.",
        &[(200, of::<Kubernetes>)],
        handler!(get),
    )
    .query(&[CONSISTENCY]),
    Operation::new(
        Verb::Post,
        "/v1/kubernetes/confirm",
        "kubernetes",
        "Confirms that the API server is right: what the leader holds back, because the API server lists so little or \
         is that of another cluster, is withdrawn, and hosts without a Node are evicted.",
        &[(200, of::<Changed>)],
        handler!(confirm),
    )
    .body::<ConfirmBody>(BODY_BYTES_MAX),
];

async fn get(call: Call) -> reply::Result {
    let look = |state: &State| (state.revision(), state.kubernetes());
    let (revision, followed) = call.look(look).await?;
    let shown = followed.map(|followed| {
        let (cluster, confirmed) = (followed.cluster, followed.confirmed);
        Kubernetes { cluster, confirmed }
    });
    reply::ok(revision, &shown.unwrap_or_default())
}

async fn confirm(call: Call) -> reply::Result {
    let ConfirmBody { cluster } = call.json_or_default()?;
    let command = Command::FollowKubernetes(FollowKubernetes { cluster, term: None });
    let change = call.change(command).await?;
    reply::ok(change.revision, &change)
}
