//! Failures of requests, and the error answers for them. The table of codes is
//! [`romana_api::code`].

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
pub use romana_api::Code;
use romana_api::code::status_of;
use romana_api::{ApiError, ErrorAnswer};
use romana_statemachine::Refusal;
use serde_json::{Map, Value};

/// Why a request failed. Boxed: failures are rare, results are everywhere.
#[derive(Debug)]
pub struct Failure(Box<Problem>);

/// Contents of a failure.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Stable error code.
    pub code: &'static str,
    /// What was requested and why it failed.
    pub message: String,
    /// What the caller can do.
    pub hint: &'static str,
    /// Machine-readable facts.
    pub details: Map<String, Value>,
    /// Seconds after which a retry makes sense.
    pub retry_after_secs: Option<u32>,
}

impl Failure {
    /// A failure with a code and a message.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            status: status(code.status()),
            code: code.as_str(),
            message: message.into(),
            hint: code.hint(),
            details: Map::new(),
            retry_after_secs: code.retry_after_secs(),
        }))
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.details.insert(key.into(), value.into());
        self
    }

    /// The contents of this failure.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.0
    }

    /// The error body for the caller.
    #[must_use]
    pub fn into_error(self) -> ApiError {
        let Problem { status, code, message, hint, details, .. } = *self.0;
        ApiError {
            code: code.into(),
            message,
            hint: hint.into(),
            details: details.into(),
            status: status.as_u16(),
        }
    }

    /// The HTTP answer, without `X-Romana-Revision`.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let (status, retry) = (self.0.status, self.0.retry_after_secs);
        respond(status, retry, self.into_body().into(), "application/json")
    }

    /// The body of the answer: JSON.
    #[must_use]
    pub fn into_body(self) -> String {
        // Text and JSON values always serialize.
        serde_json::to_string(&ErrorAnswer { error: self.into_error() }).unwrap_or_default()
    }

    /// An HTTP answer with this failure's status and the given body.
    pub(crate) fn respond_with(&self, body: Bytes, content_type: &'static str) -> Response<Body> {
        respond(self.0.status, self.0.retry_after_secs, body, content_type)
    }
}

fn respond(
    status: StatusCode,
    retry_after_secs: Option<u32>,
    body: Bytes,
    content_type: &'static str,
) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(secs) = retry_after_secs {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

/// A status from the API's table.
fn status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let details = match serde_json::to_value(&refusal) {
            // Externally tagged: {"Code": {details}}, or "Code" when there are no details.
            Ok(Value::Object(tagged)) => match tagged.into_iter().next() {
                Some((_, Value::Object(details))) => details,
                _ => Map::new(),
            },
            _ => Map::new(),
        };
        Self(Box::new(Problem {
            status: status(status_of(refusal.kind())),
            code: refusal.code(),
            message: refusal.to_string(),
            hint: refusal.hint(),
            details,
            retry_after_secs: None,
        }))
    }
}

/// The header that carries the revision an answer is based on.
pub const REVISION_HEADER: HeaderName = HeaderName::from_static(romana_api::header::REVISION);

/// The header that carries the id of the cluster.
pub const CLUSTER_HEADER: HeaderName = HeaderName::from_static(romana_api::header::CLUSTER);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_details() {
        let host = romana_statemachine::name::HostName::from("h9");
        let failure = Failure::from(Refusal::HostNotFound { host });
        assert_eq!(failure.problem().status, StatusCode::NOT_FOUND);
        assert_eq!(failure.into_error().details, serde_json::json!({"host": "h9"}));
        let none = Failure::from(Refusal::NoTopology);
        assert_eq!(none.problem().status, StatusCode::CONFLICT);
        assert!(none.problem().details.is_empty());
    }
}
