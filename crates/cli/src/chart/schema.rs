//! The part of JSON Schema that `values.schema.json` uses.

use regex::Regex;
use serde_json::{Map, Value};

/// What is wrong with the values, each with the path of the key; empty if nothing is.
pub fn validate(schema: &Value, values: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(schema, values, "(root)", &mut faults);
    faults
}

fn check(schema: &Value, value: &Value, path: &str, faults: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else {
        return;
    };
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|expected| has_type(value, expected)) {
        faults.push(format!(
            "{path}: Invalid type. Expected: {}, given: {}",
            types.join(" or "),
            type_of(value)
        ));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let why = schema
            .get("description")
            .and_then(Value::as_str)
            .map(|why| format!(" ({why})"))
            .unwrap_or_default();
        faults.push(format!(
            "{path}: {value} must be one of the following: {}{why}",
            allowed.join(", ")
        ));
    }
    match value {
        Value::Object(object) => check_object(schema, object, path, faults),
        Value::Array(items) => {
            if let Some(of_items) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    check(of_items, item, &format!("{path}[{index}]"), faults);
                }
            }
        }
        Value::String(text) => check_text(schema, text, path, faults),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
            if let Some(minimum) = bound("minimum").filter(|minimum| number < *minimum) {
                faults.push(format!(
                    "{path}: Must be greater than or equal to {minimum}"
                ));
            }
            if let Some(maximum) = bound("maximum").filter(|maximum| number > *maximum) {
                faults.push(format!("{path}: Must be less than or equal to {maximum}"));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_object(
    schema: &Map<String, Value>,
    object: &Map<String, Value>,
    path: &str,
    faults: &mut Vec<String>,
) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, value) in object {
        let inner = if path == "(root)" {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (
            properties.and_then(|properties| properties.get(key)),
            schema.get("additionalProperties"),
        ) {
            (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                check(schema, value, &inner, faults)
            }
            (None, Some(Value::Bool(false))) => {
                faults.push(format!("{path}: Additional property {key} is not allowed"))
            }
            _ => {}
        }
    }
}

fn check_text(schema: &Map<String, Value>, text: &str, path: &str, faults: &mut Vec<String>) {
    if schema
        .get("minLength")
        .and_then(Value::as_u64)
        .is_some_and(|minimum| (text.len() as u64) < minimum)
    {
        faults.push(format!("{path}: String must not be empty"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
    {
        faults.push(format!(
            "{path}: {text:?} does not match pattern '{pattern}'"
        ));
    }
}

fn has_type(value: &Value, expected: &str) -> bool {
    match expected {
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => type_of(value) == other,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
