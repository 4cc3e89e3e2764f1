//! `/v1/kubernetes`: the Kubernetes cluster whose objects are imported.

use romana_statemachine::name::SourceUid;
use serde::{Deserialize, Serialize};

/// The Kubernetes cluster that is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Kubernetes {
    /// The uid of its namespace `kube-system`; `null`: none has been seen yet.
    pub cluster: Option<SourceUid>,
    /// Whether an operator has confirmed what was held back, and the leader has not acted on it yet.
    pub confirmed: bool,
}

/// Confirms that the API server is right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ConfirmBody {
    /// The uid of its namespace `kube-system`, if it is that of another cluster than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<SourceUid>,
}
