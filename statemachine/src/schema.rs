//! JSON Schemas of types with custom serde implementations. The others are derived.

use alloc::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::entry::Digest;
use crate::policy::document::{Document, PolicyDocument};
use crate::refusal::Refusal;

/// A prefix, as text.
#[derive(Debug)]
pub struct Cidr;

impl JsonSchema for Cidr {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": "An IPv4 or IPv6 prefix without host bits."})
    }
}

/// A name: [`crate::name::check`].
pub(crate) fn name() -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": crate::limits::NAME_BYTES_MAX,
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._:@-]*$",
    })
}

/// A name that may be written as a number, which is read as its decimal digits. Responses have the text.
pub fn name_or_number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"anyOf": [name(), {"type": "integer", "minimum": 0}]})
}

/// Adds fields that have an alias: Romana 2.0's or Kubernetes' name.
pub(crate) fn with_aliases(schema: &mut Schema) {
    let Some(members) = schema.get_mut("properties").and_then(|members| members.as_object_mut())
    else {
        return;
    };
    for (name, alias) in [
        ("tenant", "tenant_id"),
        ("segment", "segment_id"),
        ("labels", "matchLabels"),
        ("expressions", "matchExpressions"),
    ] {
        if let Some(member) = members.get(name).cloned() {
            members.insert(alias.into(), member);
        }
    }
}

impl JsonSchema for Digest {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
    }
}

impl JsonSchema for Document {
    fn schema_name() -> Cow<'static, str> {
        "PolicyDocuments".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<PolicyDocument>();
        json_schema!({
            "description": "Any number of policies.",
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"securitypolicies": {"type": "array", "items": one}},
                    "required": ["securitypolicies"],
                    "additionalProperties": false,
                },
                {"type": "array", "items": one},
                one,
            ],
        })
    }
}

impl JsonSchema for Refusal {
    fn schema_name() -> Cow<'static, str> {
        "Refusal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A refusal's code; with its facts, if it has any.",
            "anyOf": [
                {"type": "string"},
                {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": {"type": "object"}},
            ],
        })
    }
}
