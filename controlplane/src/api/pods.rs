//! `/v1/pods`: what the leader knows of pods from the Kubernetes API server. Not in the log: a pod becomes an endpoint
//! when it has an address.

use romana_api::pod::PodSegment;
use romana_statemachine::State;
use romana_statemachine::agent::PodRef;
use romana_statemachine::name::DEFAULT_SEGMENT;

use super::call::Call;
use super::operation::{Operation, Param, Verb, handler, of};
use super::reply;
use crate::error::{Code, Failure};

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/pods/{namespace}/{name}/segment",
    "pods",
    "The segment in which a pod is to get its address. The leader waits a second for a pod that its watch of the \
     Kubernetes API server has not shown yet.",
    &[(200, of::<PodSegment>)],
    handler!(segment),
)
.query(&[Param::optional("uid", "Only the pod with this uid")])];

async fn segment(call: Call) -> reply::Result {
    let (namespace, name) = (call.path("namespace").to_owned(), call.path("name").to_owned());
    let uid = call.query("uid").unwrap_or_default().to_owned();
    let replica = call.api.replica();
    let found = replica.agents().pod_segment(PodRef { namespace, name, uid }, call.deadline).await;
    let found = found.map_err(|error| Failure::new(Code::Unavailable, error.to_string()))?;
    let known = found.is_some();
    let segment = found.unwrap_or_else(|| DEFAULT_SEGMENT.into());
    reply::ok(replica.with_state(State::revision), &PodSegment { segment, known })
}
