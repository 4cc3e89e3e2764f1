//! Schemas of the OpenAPI document, generated from the API types.
//!
//! A field that is optional in a body is always present in an answer: the same type has a different schema for each,
//! so there are two generators. If both schemas are equal, one definition is used.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::operation::SchemaOf;

/// Location of the definitions in the document.
const DEFINITIONS: &str = "/components/schemas";
/// Temporary location of the definitions of bodies, until their names are known.
const BODIES: &str = "/components/bodies";

/// The schemas collected so far.
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

    /// The schema of an answer type.
    pub(super) fn answer(&mut self, of: SchemaOf) -> Value {
        of(&mut self.answers).to_value()
    }

    /// The schema of a body type.
    pub(super) fn body(&mut self, of: SchemaOf) -> Value {
        of(&mut self.bodies).to_value()
    }

    /// All definitions; resolves the references in the document to them.
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

/// Names of the body definitions: the type's name, unless an answer definition with that name differs.
fn names(answers: &Map<String, Value>, bodies: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut names: BTreeMap<_, _> =
        bodies.keys().map(|name| (name.clone(), name.clone())).collect();
    loop {
        let differs = |name: &&String| {
            let mut schema = bodies[*name].clone();
            refer(&mut schema, &names);
            names[*name] == **name && answers.get(*name).is_some_and(|other| *other != schema)
        };
        // Renaming a definition changes those that refer to it as well.
        let Some(name) = bodies.keys().find(differs) else { return names };
        names.insert(name.clone(), format!("{name}Body"));
    }
}

/// Redirects references to body definitions to their final names.
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
