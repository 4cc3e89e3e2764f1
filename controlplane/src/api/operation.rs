//! An operation: one row of the table from which the router, the OpenAPI document and the metrics are built.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::call::Call;
use super::input::Input;
pub(crate) use super::input::{Accepts, CONSISTENCY, CONTINUE, LIMIT, Param, ROMANA2_TYPES, Verb};
use super::reply;

/// Default maximum body size, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;
/// Maximum body size of a batch, in bytes.
pub(crate) const BATCH_BYTES_MAX: usize = 16 << 20;

/// The function that handles a request.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = reply::Result> + Send>>;

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

/// An operation of the API.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) takes: Input,
    /// Path with `{parameters}`.
    pub(crate) path: &'static str,
    /// The resource it belongs to.
    pub(crate) tag: &'static str,
    /// One-line summary.
    pub(crate) about: &'static str,
    /// Schema of the body.
    pub(crate) body: Option<SchemaOf>,
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
        let takes = Input {
            verb,
            query: &[],
            body_max: 0,
            content_types: &["application/json"],
            accepts: Accepts::Json,
            ignores_body: false,
        };
        Self { takes, path, tag, about, body: None, walks: false, answers, handler }
    }

    pub(crate) const fn query(mut self, query: &'static [Param]) -> Self {
        self.takes.query = query;
        self
    }

    /// Adds a body of type `T` and its maximum size.
    pub(crate) const fn body<T: JsonSchema>(mut self, max: usize) -> Self {
        self.body = Some(of::<T>);
        self.takes.body_max = max;
        self
    }

    pub(crate) const fn accepts(mut self, accepts: Accepts) -> Self {
        self.takes.accepts = accepts;
        self
    }

    pub(crate) const fn ignores_body(mut self) -> Self {
        self.takes.ignores_body = true;
        self
    }

    pub(crate) const fn walks(mut self) -> Self {
        self.walks = true;
        self
    }

    pub(crate) const fn content_types(mut self, types: &'static [&'static str]) -> Self {
        self.takes.content_types = types;
        self
    }

    /// Whether answering may visit a large part of the state: lists, and operations marked so. (Audit queries read
    /// the disk, on other threads.)
    pub(crate) fn is_walk(&self) -> bool {
        let list = self.takes.query.iter().any(|param| param.name == LIMIT.name);
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
