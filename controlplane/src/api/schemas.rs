//! The schemas of the OpenAPI document, made from the types of the contract.
//!
//! What may be left out of a body is always written in an answer: the same type has a schema for each, so there are
//! two generators. Where both come to the same, one definition is enough.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::operation::SchemaOf;

/// Where definitions are in the document.
const DEFINITIONS: &str = "/components/schemas";
/// Where definitions of bodies seem to be until they have their names.
const BODIES: &str = "/components/bodies";

/// Schemas that are being collected.
pub(super) struct Schemas {
    answers: SchemaGenerator,
    bodies: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = |at: &str| {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = at.to_owned().into();
                settings.meta_schema = None;
            })
        };
        Self {
            answers: settings(DEFINITIONS).for_serialize().into_generator(),
            bodies: settings(BODIES).for_deserialize().into_generator(),
        }
    }

    /// The schema of an answer.
    pub(super) fn answer(&mut self, of: SchemaOf) -> Value {
        of(&mut self.answers).to_value()
    }

    /// The schema of a body.
    pub(super) fn body(&mut self, of: SchemaOf) -> Value {
        of(&mut self.bodies).to_value()
    }

    /// All definitions; references in the document lead to them.
    pub(super) fn close(mut self, document: &mut Value) -> Map<String, Value> {
        let mut all = self.answers.take_definitions(true);
        let bodies = self.bodies.take_definitions(true);
        let names = names(&all, &bodies);
        refer(document, &names);
        for (name, mut schema) in bodies {
            refer(&mut schema, &names);
            all.insert(names[&name].clone(), schema);
        }
        all
    }
}

/// What definitions of bodies are called: as the type, unless an answer's definition has that name and is not the same.
fn names(answers: &Map<String, Value>, bodies: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut names: BTreeMap<_, _> =
        bodies.keys().map(|name| (name.clone(), name.clone())).collect();
    loop {
        let differs = |name: &&String| {
            let mut schema = bodies[*name].clone();
            refer(&mut schema, &names);
            names[*name] == **name && answers.get(*name).is_some_and(|other| *other != schema)
        };
        // Another name for one makes those that refer to it differ as well.
        let Some(name) = bodies.keys().find(differs) else { return names };
        names.insert(name.clone(), format!("{name}Body"));
    }
}

/// Makes references to definitions of bodies lead to where they are.
fn refer(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(to)) = members.get_mut("$ref")
                && let Some(name) = to.strip_prefix(&format!("#{BODIES}/"))
                && let Some(name) = names.get(name)
            {
                *to = format!("#{DEFINITIONS}/{name}");
            }
            members.values_mut().for_each(|member| refer(member, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, names)),
        _ => {}
    }
}
