//! Errors as replicas report them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::code;

/// What a replica says about a request that it did not carry out as asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{message}")]
#[serde(default)]
pub struct ApiError {
    /// Stable code, such as `NetworkExhausted`.
    pub code: String,
    /// What was asked and why not.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// The facts, for programs; which ones depends on the code.
    pub details: Value,
    /// HTTP status. Not part of the JSON.
    #[serde(skip)]
    pub status: u16,
}

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorAnswer {
    pub error: ApiError,
}

impl ApiError {
    /// Reads an error body. `None` if it is not one.
    #[must_use]
    pub fn from_body(status: u16, body: &[u8]) -> Option<Self> {
        let ErrorAnswer { mut error } = serde_json::from_slice(body).ok()?;
        error.status = status;
        (!error.code.is_empty()).then_some(error)
    }

    /// Fills in the status of an error that came without one, inside a batch: 422 where the code is not known.
    #[must_use]
    pub fn with_status_of_code(mut self) -> Self {
        self.status = code::status_of_code(&self.code).unwrap_or(422);
        self
    }
}
