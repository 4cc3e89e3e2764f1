//! Answers: JSON with the revision it is based on, and paginated lists.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::{BufMut, Bytes, BytesMut};
use romana_api::Page;
use romana_statemachine::{Revision, State};
use serde::Serialize;

use super::call::Call;
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

/// A page of a list in ascending order of `key`: the items after `?continue=`, at most `?limit=`.
/// `continue` is the key of the previous page's last item, so pages never repeat an item.
pub(crate) fn page<I, T, K, V>(
    call: &Call,
    state: &State,
    items: I,
    key: impl Fn(&T) -> K,
    view: impl Fn(T) -> V,
) -> Result
where
    I: Iterator<Item = T>,
    K: Ord + std::fmt::Display + Token,
    V: Serialize,
{
    let limit = call.limit()?;
    let after = match call.query("continue") {
        None => None,
        Some(text) => Some(K::token(text).ok_or_else(|| {
            super::call::bad_query("continue", text, "it is not one that a list gave")
        })?),
    };
    let mut rest = items.skip_while(|item| after.as_ref().is_some_and(|after| key(item) <= *after));
    let mut page = Vec::new();
    let mut last = None;
    for item in rest.by_ref().take(limit) {
        last = Some(key(&item));
        page.push(view(item));
    }
    let next = if rest.next().is_some() { last.map(|key| key.to_string()) } else { None };
    ok(state.revision(), &Page { items: page, revision: state.revision(), next, oldest: None })
}

/// A list without pagination.
pub(crate) fn whole<T: Serialize>(revision: Revision, items: Vec<T>) -> Result {
    ok(revision, &Page { items, revision, next: None, oldest: None })
}

/// A key that can be a `continue` token.
pub(crate) trait Token: Sized {
    /// Parses a token.
    fn token(text: &str) -> Option<Self>;
}

macro_rules! tokens {
    (names: $($name:ty),*; parsed: $($parsed:ty),*) => {
        $(impl Token for $name {
            fn token(text: &str) -> Option<Self> {
                Some(Self::from(text))
            }
        })*
        $(impl Token for $parsed {
            fn token(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        })*
    };
}

use romana_statemachine::name::{HostName, NetworkName, PolicyName, SegmentId, TenantId, VipName};
tokens! {
    names: HostName, NetworkName, PolicyName, SegmentId, TenantId, VipName, String;
    parsed: std::net::IpAddr, ipnet::IpNet
}
