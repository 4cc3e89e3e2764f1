//! `/v1/audit`: who had an address, what happened, what was when, and whether all replicas agree on it.

use std::borrow::Cow;

use romana_statemachine::audit::Moment;
use romana_statemachine::{Digest, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What lies between two moments.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Difference {
    pub from: Moment,
    pub to: Moment,
    pub changes: Vec<Change>,
    /// Whether there are more than are shown.
    pub truncated: bool,
}

/// One thing that is not the same at two moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// What it is: `host`, `block`, `address` and so on.
    pub kind: Cow<'static, str>,
    /// Which one: its name, address or prefix.
    pub key: String,
    /// As it was; `null`: it was not.
    pub before: Option<Value>,
    /// As it is then; `null`: it is no more.
    pub after: Option<Value>,
}

/// What all replicas say about their histories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verification {
    /// Whether all are whole and the same.
    pub agreed: bool,
    /// Where the replicas' histories begin, if that differs by more than one step of purging: sentences.
    #[serde(default)]
    pub differences: Vec<String>,
    pub replicas: Vec<Verified>,
}

/// What one replica says about its history, all of which it has read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verified {
    /// Which replica.
    pub id: u64,
    /// Whether its chain and its checkpoints are whole.
    pub ok: bool,
    /// What it found, if it is.
    #[serde(flatten)]
    pub proof: Option<Proof>,
    /// What is wrong, or why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What reading all of a history showed. Also sent between replicas: the order of the fields is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Proof {
    /// The oldest revision that is kept.
    pub oldest: Revision,
    /// The revision whose digests these are.
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    /// Digest of the state that the history leads to.
    pub state_digest: Digest,
    /// Checkpoints that were compared.
    pub checkpoints: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// First line of an exported history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExportHeader {
    /// Format of the file: 1.
    pub romana_history: u64,
    /// The cluster it comes from, as the file says: nothing signs this.
    pub cluster_id: String,
    /// Revision of the first record.
    pub first: Revision,
    /// Digest of the record before.
    pub previous: Digest,
    /// Revision of the last record.
    pub last: Revision,
    pub digest: Digest,
    /// The state before the first record in base64, unless that is the first of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// Last line of an exported history: without it, the file was cut short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportLast {
    pub end: ExportEnd,
}

/// Where an exported history ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportEnd {
    pub revision: Revision,
    /// Digest of the history there.
    pub digest: Digest,
    pub state_digest: Digest,
}
