//! Answers: JSON with the revision it is based on.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::{BufMut, Bytes, BytesMut};
use romana_api::Page;
use romana_statemachine::Revision;
use serde::Serialize;

use crate::error::{Code, Failure, REVISION_HEADER};

/// Result of a handler.
pub(crate) type Result = std::result::Result<Response<Body>, Failure>;

/// A value as JSON bytes.
pub(crate) fn bytes<T: Serialize + ?Sized>(value: &T) -> std::result::Result<Bytes, Failure> {
    let mut body = BytesMut::with_capacity(256);
    serde_json::to_writer((&mut body).writer(), value).map_err(|why| {
        Failure::new(Code::Internal, format!("the answer has no JSON form: {why}"))
    })?;
    Ok(body.freeze())
}

/// An answer with a JSON body.
pub(crate) fn json<T: Serialize + ?Sized>(
    status: StatusCode,
    revision: Revision,
    value: &T,
) -> Result {
    Ok(raw(status, revision, "application/json", Body::from(bytes(value)?)))
}

/// A 200 with a JSON body.
pub(crate) fn ok<T: Serialize + ?Sized>(revision: Revision, value: &T) -> Result {
    json(StatusCode::OK, revision, value)
}

/// An answer with any body.
pub(crate) fn raw(
    status: StatusCode,
    revision: Revision,
    content_type: &'static str,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(REVISION_HEADER, HeaderValue::from(revision.get()));
    response
}

/// A list without pagination.
pub(crate) fn whole<T: Serialize>(revision: Revision, items: Vec<T>) -> Result {
    ok(revision, &Page { items, revision, next: None, oldest: None })
}
