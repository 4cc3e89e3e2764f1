//! Error answers of replicas.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::code;

/// Why a replica did not carry out a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{message}")]
#[serde(default)]
pub struct ApiError {
    /// Stable code, such as `NetworkExhausted`.
    pub code: String,
    /// The request, and why it failed.
    pub message: String,
    /// The remedy; may be empty.
    pub hint: String,
    /// Facts for programs; the members depend on the code.
    pub details: Value,
    /// HTTP status. Not part of the JSON.
    #[serde(skip)]
    pub status: u16,
}

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorAnswer {
    pub error: ApiError,
}

impl ApiError {
    /// Parses an error body. `None` if it is invalid.
    #[must_use]
    pub fn from_body(status: u16, body: &[u8]) -> Option<Self> {
        let ErrorAnswer { mut error } = serde_json::from_slice(body).ok()?;
        error.status = status;
        (!error.code.is_empty()).then_some(error)
    }

    /// Sets the status of an error in a batch, which has none: 422 if the code is unknown.
    #[must_use]
    pub fn with_status_of_code(mut self) -> Self {
        self.status = code::status_of_code(&self.code).unwrap_or(422);
        self
    }
}
