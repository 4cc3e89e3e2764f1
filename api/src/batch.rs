//! `/v1/batch`: many commands in one request. The body is a list of [`romana_statemachine::Command`]s.

use romana_statemachine::{Answer, Revision};
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// The result of one command of a batch: an answer or an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BatchItem {
    /// Revision after the command.
    #[serde(default)]
    pub revision: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}
