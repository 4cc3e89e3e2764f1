//! What an operation takes: its method, parameters, body and the types of its answer. A request is checked against it
//! before the handler runs.

use axum::http::{HeaderMap, header};

use crate::error::{Code, Failure};

/// An HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Verb {
    /// The method's HTTP name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A query parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) required: bool,
}

impl Param {
    pub(crate) const fn optional(name: &'static str, about: &'static str) -> Self {
        Self { name, about, required: false }
    }

    pub(crate) const fn required(name: &'static str, about: &'static str) -> Self {
        Self { name, about, required: true }
    }
}

pub(crate) const CONSISTENCY: Param = Param::optional(
    "consistency",
    "`linearizable` (default): includes everything acknowledged before; `local`: what this replica has",
);
pub(crate) const LIMIT: Param =
    Param::optional("limit", "Items at most, 1 to 10000 (default 10000)");
pub(crate) const CONTINUE: Param =
    Param::optional("continue", "The `continue` of the page before: the next page");

/// The content types that a route can answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepts {
    Json,
    Text,
    Bytes,
    Feed,
    Romana2,
}

/// Romana 2.0's content types.
pub(crate) const ROMANA2_TYPES: [&str; 3] =
    ["application/json", "application/vnd.romana.v1+json", "application/vnd.romana+json"];

impl Accepts {
    /// The content types; the first is the default.
    pub(crate) fn types(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["application/json"],
            Self::Text => &["application/openmetrics-text", "text/plain"],
            Self::Bytes => &["application/octet-stream"],
            Self::Feed => &["text/event-stream", "application/x-ndjson"],
            Self::Romana2 => &ROMANA2_TYPES,
        }
    }

    /// Refuses a request that accepts none of the types. (Exclusion by `q=0` is ignored.)
    pub(crate) fn check(self, headers: &HeaderMap) -> Result<(), Failure> {
        self.choose(headers).map(|_| ())
    }

    /// The first type that the request accepts, in the order of the request.
    pub(crate) fn choose(self, headers: &HeaderMap) -> Result<&'static str, Failure> {
        let default = self.types()[0];
        if !headers.contains_key(header::ACCEPT) {
            return Ok(default);
        }
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let range = range.split(';').next().unwrap_or("").trim();
            if range == "*/*" {
                return Ok(default);
            }
            let fits = |known: &&&str| match range.strip_suffix("/*") {
                Some(kind) => known.split('/').next() == Some(kind),
                None => known.eq_ignore_ascii_case(range),
            };
            if let Some(known) = self.types().iter().find(fits) {
                return Ok(known);
            }
        }
        let message = format!("this route answers with {}", self.types().join(" or "));
        Err(Failure::new(Code::NotAcceptable, message).with("types", self.types().to_vec()))
    }
}

/// What an operation takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub(crate) verb: Verb,
    pub(crate) query: &'static [Param],
    /// Maximum body size in bytes; 0: takes no body.
    pub(crate) body_max: usize,
    pub(crate) content_types: &'static [&'static str],
    pub(crate) accepts: Accepts,
    /// The answer does not depend on the body, which is not read.
    pub(crate) ignores_body: bool,
}
