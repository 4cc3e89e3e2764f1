//! `/v1/openapi.json`: generated from the table of operations, the table of errors and the API types, so that it is
//! complete and never out of date.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use romana_api::ErrorAnswer;
use romana_api::code::status_of;
use romana_api::romana2::Romana2Error;
use serde_json::{Map, Value, json};

use super::call::Call;
use super::operation::{Accepts, Operation, Verb, handler, of};
use super::schemas::Schemas;
use super::{reply, table};
use crate::error::Code;

pub(super) const OPERATIONS: &[Operation] = &[Operation::new(
    Verb::Get,
    "/v1/openapi.json",
    "meta",
    "This document.",
    &[(200, of::<serde_json::Map<String, serde_json::Value>>)],
    handler!(get),
)];

async fn get(call: Call) -> reply::Result {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let bytes = match DOCUMENT.get() {
        Some(bytes) => bytes.clone(),
        None => {
            let bytes = reply::bytes(&document())?;
            DOCUMENT.get_or_init(|| bytes).clone()
        }
    };
    let revision = call.api.replica().with_state(romana_statemachine::State::revision);
    Ok(reply::raw(StatusCode::OK, revision, "application/json", Body::from(bytes)))
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in table() {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = methods {
            methods
                .insert(route.takes.verb.as_str().to_lowercase(), operation(route, &mut schemas));
        }
    }
    let responses = errors(&mut schemas);
    let mut paths = Value::from(paths);
    let schemas = schemas.close(&mut paths);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "romanad",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The Romana control plane. Any replica serves everything: writes are \
                forwarded to the leader, reads are linearizable unless `consistency=local`. Every \
                answer carries `X-Romana-Revision`. Unknown members and parameters are refused. \
                Request headers: `X-Romana-Actor` says who asks (for the audit log), \
                `X-Romana-Timeout-Ms` sets the deadline (at most 60000); each at most once. What all \
                clients cost together is bounded: what is over gets 429 with Retry-After. Changes \
                that a page of another origin asks for are refused (`Origin`, `Sec-Fetch-Site`).",
        },
        "paths": paths,
        "components": {"schemas": schemas, "responses": responses},
    })
}

fn operation(route: &Operation, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = route
        .path_params()
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(route.takes.query.iter().map(|param| {
        json!({
            "name": param.name,
            "in": "query",
            "required": param.required,
            "description": param.about,
            "schema": {"type": "string"},
        })
    }));
    let mut responses = Map::new();
    for (status, of) in route.answers {
        let schema = schemas.answer(*of);
        let types = route.takes.accepts.types().iter();
        let content: Map<String, Value> =
            types.map(|kind| ((*kind).into(), json!({"schema": schema}))).collect();
        let headers = json!({"X-Romana-Revision": {"schema": {"type": "integer"}}});
        let description = if *status == 201 { "Created." } else { "Done." };
        responses.insert(
            status.to_string(),
            json!({"description": description, "headers": headers, "content": content}),
        );
    }
    let failed = if route.takes.accepts == Accepts::Romana2 { "Romana2Error" } else { "Error" };
    responses.insert("default".into(), json!({"$ref": format!("#/components/responses/{failed}")}));
    let mut operation = json!({
        "operationId": operation_id(route),
        "tags": [route.tag],
        "summary": route.about,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(of) = route.body {
        let schema = schemas.body(of);
        let types = route.takes.content_types.iter();
        let content: Map<String, Value> =
            types.map(|kind| ((*kind).into(), json!({"schema": schema}))).collect();
        operation["requestBody"] = json!({"content": content});
    }
    operation
}

/// `GET /v1/hosts/{name}` → `getHostsName`.
fn operation_id(route: &Operation) -> String {
    let mut id = route.takes.verb.as_str().to_lowercase();
    if route.takes.accepts == Accepts::Romana2 {
        id.push_str("Romana2");
    }
    let words = route.path.split(['/', '{', '}', '.', '_']).filter(|word| !word.is_empty());
    for word in words.filter(|word| *word != "v1") {
        let (first, rest) = word.split_at(1);
        id.push_str(&first.to_uppercase());
        id.push_str(rest);
    }
    id
}

/// The error answers, with the table of all codes.
fn errors(schemas: &mut Schemas) -> Value {
    use std::fmt::Write;
    let mut table = String::from("Codes:\n\n| code | status | what to do |\n|---|---|---|\n");
    for code in Code::ALL {
        // Writing to a string does not fail.
        _ = writeln!(table, "| {} | {} | {} |", code.as_str(), code.status(), code.hint());
    }
    for (code, kind, hint) in romana_statemachine::Refusal::TABLE {
        _ = writeln!(table, "| {code} | {} | {hint} |", status_of(*kind));
    }
    let mut answer = |about: &str, of| json!({"description": about, "content": {"application/json": {"schema": schemas.answer(of)}}});
    json!({
        "Error": answer(&table, of::<ErrorAnswer>),
        "Romana2Error": answer("As Error, in Romana 2.0's form.", of::<Romana2Error>),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_there_once_and_nothing_else() {
        let document = document();
        let mut documented = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                documented.insert((method.to_uppercase(), path.clone()));
            }
        }
        let routed: Vec<_> =
            table().map(|row| (row.takes.verb.as_str().to_owned(), row.path.to_owned())).collect();
        assert_eq!(routed.len(), documented.len());
        assert_eq!(routed.into_iter().collect::<BTreeSet<_>>(), documented);
    }

    #[test]
    fn references_resolve_and_operation_ids_are_distinct() {
        fn walk(value: &Value, references: &mut BTreeSet<String>, ids: &mut Vec<String>) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(to)) = members.get("$ref") {
                        references.insert(to.clone());
                    }
                    if let Some(Value::String(id)) = members.get("operationId") {
                        ids.push(id.clone());
                    }
                    members.values().for_each(|value| walk(value, references, ids));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, references, ids)),
                _ => {}
            }
        }
        let document = document();
        let (mut references, mut ids) = (BTreeSet::new(), Vec::new());
        walk(&document, &mut references, &mut ids);
        for reference in &references {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in schemas.keys() {
            let to = format!("#/components/schemas/{name}");
            assert!(references.contains(&to), "schema {name} is not used");
        }
        let count = ids.len();
        assert_eq!(ids.into_iter().collect::<BTreeSet<_>>().len(), count);
    }
}
