//! The part of JSON Schema that the OpenAPI document uses.

use serde_json::Value;

/// What is wrong with a value, if anything.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{why}: {value} against {schema}"));
    if let Some(to) = schema["$ref"].as_str() {
        let target = document.pointer(&to[1..]).ok_or_else(|| format!("{to} leads nowhere"))?;
        return check(document, target, value);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[key].as_array() {
            let fits = choices.iter().any(|choice| check(document, choice, value).is_ok());
            return if fits { Ok(()) } else { fail("fits no alternative") };
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        return if values.contains(value) { Ok(()) } else { fail("not in the enumeration") };
    }
    let right = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(other) => return Err(format!("unknown type {other}")),
    };
    if !right {
        return fail("wrong type");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap_or("")).is_none() {
            return fail(&format!("{name} is missing"));
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(schema), _) => check(document, schema, member)?,
            (None, Value::Bool(false)) => return fail(&format!("{name} is not documented")),
            (None, schema @ Value::Object(_)) => check(document, schema, member)?,
            _ => {}
        }
    }
    if let Some(schema) = schema.get("items") {
        for item in value.as_array().into_iter().flatten() {
            check(document, schema, item)?;
        }
    }
    Ok(())
}
