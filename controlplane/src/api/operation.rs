//! An operation: one row of the table from which the router, the OpenAPI document and the metrics are built.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use axum::http::{HeaderMap, header};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::call::Call;
use super::reply;
use crate::error::{Code, Failure};

/// Default maximum body size, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;
/// Maximum body size of a batch, in bytes.
pub(crate) const BATCH_BYTES_MAX: usize = 16 << 20;

/// The function that handles a request.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = reply::Result> + Send>>;

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

/// Generates the schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of a type.
pub(crate) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Binary content: a backup.
pub(crate) struct Octets;

impl JsonSchema for Octets {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Octets".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": "A backup: see statemachine/src/backup.rs.",
        })
    }
}

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

/// An operation of the API.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) verb: Verb,
    /// Path with `{parameters}`.
    pub(crate) path: &'static str,
    /// The resource it belongs to.
    pub(crate) tag: &'static str,
    /// One-line summary.
    pub(crate) about: &'static str,
    pub(crate) query: &'static [Param],
    /// Maximum body size in bytes; 0: takes no body.
    pub(crate) body_max: usize,
    /// Schema of the body.
    pub(crate) body: Option<SchemaOf>,
    pub(crate) content_types: &'static [&'static str],
    pub(crate) accepts: Accepts,
    /// The answer does not depend on the body, which is not read.
    pub(crate) ignores_body: bool,
    /// It may visit a large part of the state, although it is not a list with a limit.
    pub(crate) walks: bool,
    /// Success statuses, each with the schema of the answer.
    pub(crate) answers: &'static [(u16, SchemaOf)],
    pub(crate) handler: Handler,
}

impl Operation {
    /// An operation without body and parameters that answers with JSON.
    pub(crate) const fn new(
        verb: Verb,
        path: &'static str,
        tag: &'static str,
        about: &'static str,
        answers: &'static [(u16, SchemaOf)],
        handler: Handler,
    ) -> Self {
        Self {
            verb,
            path,
            tag,
            about,
            query: &[],
            body_max: 0,
            body: None,
            content_types: &["application/json"],
            accepts: Accepts::Json,
            ignores_body: false,
            walks: false,
            answers,
            handler,
        }
    }

    pub(crate) const fn query(mut self, query: &'static [Param]) -> Self {
        self.query = query;
        self
    }

    /// Adds a body of type `T` and its maximum size.
    pub(crate) const fn body<T: JsonSchema>(mut self, max: usize) -> Self {
        self.body = Some(of::<T>);
        self.body_max = max;
        self
    }

    pub(crate) const fn accepts(mut self, accepts: Accepts) -> Self {
        self.accepts = accepts;
        self
    }

    pub(crate) const fn ignores_body(mut self) -> Self {
        self.ignores_body = true;
        self
    }

    pub(crate) const fn walks(mut self) -> Self {
        self.walks = true;
        self
    }

    pub(crate) const fn content_types(mut self, types: &'static [&'static str]) -> Self {
        self.content_types = types;
        self
    }

    /// Whether answering may visit a large part of the state: lists, and operations marked so. (Audit queries read
    /// the disk, on other threads.)
    pub(crate) fn is_walk(&self) -> bool {
        let list = self.query.iter().any(|param| param.name == LIMIT.name);
        self.walks || list && self.tag != "audit"
    }

    /// Names of the path parameters.
    pub(crate) fn path_params(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
    }
}

/// Turns an async function into a [`Handler`].
macro_rules! handler {
    ($function:path) => {
        |call| Box::pin($function(call))
    };
}
pub(crate) use handler;
