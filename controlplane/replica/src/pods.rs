//! What agents ask the leader about their pods. Not replicated: the leader's listener knows it from Kubernetes.

use futures_util::future::BoxFuture;
use romana_statemachine::agent::PodRef;
use romana_statemachine::name::SegmentId;

/// Knows the pods of the cluster while this replica leads.
pub trait Pods: Send + Sync + 'static {
    /// The segment of a pod; `None`: the pod is not known, also after a short wait. Agents wait for the answer.
    fn segment<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Option<SegmentId>>;
}
