//! The subset of JSON Schema that the OpenAPI document uses. Fields that a schema does not list count as
//! undocumented.

use serde_json::Value;

/// Why a value does not match a schema.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{why}: {value} against {schema}"));
    if schema == &Value::Bool(true) {
        return Ok(());
    }
    if let Some(to) = schema["$ref"].as_str() {
        let target = document.pointer(&to[1..]).ok_or_else(|| format!("{to} leads nowhere"))?;
        check(document, target, value)?;
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[key].as_array()
            && !choices.iter().any(|choice| check(document, choice, value).is_ok())
        {
            return fail("fits no alternative");
        }
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return fail("not in the enumeration");
    }
    if schema.get("const").is_some_and(|constant| constant != value) {
        return fail("not the constant");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is(name, value)) {
        return fail("wrong type");
    }
    members(document, schema, value)?;
    if let (Some(schema), Some(items)) = (schema.get("items"), value.as_array()) {
        items.iter().try_for_each(|item| check(document, schema, item))?;
    }
    Ok(())
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("unknown type {other}"),
    }
}

fn members(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(has) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !has.contains_key(name) {
            return Err(format!("{name} is missing: {value} against {schema}"));
        }
    }
    for (name, member) in has {
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(schema), _) => check(document, schema, member)?,
            (None, schema @ Value::Object(_)) => check(document, schema, member)?,
            (None, Value::Null | Value::Bool(false)) if schema.get("properties").is_some() => {
                return Err(format!("{name} is not documented: {value} against {schema}"));
            }
            _ => {}
        }
    }
    Ok(())
}
