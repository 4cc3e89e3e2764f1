//! `/v1/audit`: who held an address, what happened, what the state was, and whether all replicas agree.

use std::borrow::Cow;

use romana_statemachine::audit::Moment;
use romana_statemachine::{Digest, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The difference between two moments.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Difference {
    pub from: Moment,
    pub to: Moment,
    pub changes: Vec<Change>,
    /// Whether there are more than shown.
    pub truncated: bool,
}

/// An object that differs between the two moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// Kind of the object: `host`, `block`, `address` and so on.
    pub kind: Cow<'static, str>,
    /// Name, address or prefix of the object.
    pub key: String,
    /// The object at the first moment; `null`: it did not exist.
    pub before: Option<Value>,
    /// The object at the second moment; `null`: it does not exist.
    pub after: Option<Value>,
}

/// The verification of all replicas' histories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verification {
    /// Whether all histories are intact and equal.
    pub agreed: bool,
    /// Differences between the oldest kept revisions of the replicas, if larger than one purge: sentences.
    #[serde(default)]
    pub differences: Vec<String>,
    pub replicas: Vec<Verified>,
}

/// The verification of one replica's history, which it has read completely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verified {
    /// Id of the replica.
    pub id: u64,
    /// Whether its chain and its checkpoints are intact.
    pub ok: bool,
    /// The result, if it is intact.
    #[serde(flatten)]
    pub proof: Option<Proof>,
    /// What is wrong, or why the replica does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The result of reading a whole history. Also sent between replicas: the order of the fields is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Proof {
    /// The oldest revision kept.
    pub oldest: Revision,
    /// The revision of the digests.
    pub revision: Revision,
    /// Digest of the history at that revision.
    pub digest: Digest,
    /// Digest of the state that results from the history.
    pub state_digest: Digest,
    /// Number of checkpoints compared.
    pub checkpoints: u64,
    /// Duration, milliseconds.
    pub took_ms: u64,
}

/// First line of an exported history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExportHeader {
    /// Version of the file format: 1.
    pub romana_history: u64,
    /// The cluster's id. It is not signed.
    pub cluster_id: String,
    /// Revision of the first record.
    pub first: Revision,
    /// Digest of the preceding record.
    pub previous: Digest,
    /// Revision of the last record.
    pub last: Revision,
    pub digest: Digest,
    /// The state before the first record in base64, unless that is record 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// Last line of an exported history: without it, the file is truncated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportLast {
    pub end: ExportEnd,
}

/// The end of an exported history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportEnd {
    pub revision: Revision,
    /// Digest of the history at the end.
    pub digest: Digest,
    pub state_digest: Digest,
}
