//! `/v1/pods`: what the listener of the Kubernetes API server knows of a pod.

use romana_statemachine::name::SegmentId;
use serde::{Deserialize, Serialize};

/// The segment of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PodSegment {
    /// Of the pod's label `romana.io/segment`, else `default`.
    pub segment: SegmentId,
    /// Whether the pod is known. False also where no API server is followed.
    pub known: bool,
}
