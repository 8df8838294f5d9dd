//! Validation of custom objects, in the words of Kubernetes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};

use super::{Additional, ListKind, Schema, Type, type_name};
use crate::status::{Cause, go_value};

/// All violations, in the order Kubernetes reports them (by field, then constraint).
pub fn check(value: &Value, schema: &Schema) -> Vec<Cause> {
    let mut causes = Vec::new();
    at(value, schema, "", &mut causes);
    causes
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

fn key(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn invalid(path: &str, value: &Value, detail: &str) -> Cause {
    Cause::invalid(path, value, &format!("{path} in body {detail}"))
}

fn at(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema.nullable {
        return;
    }
    if !type_fits(value, schema) {
        let wanted = if schema.int_or_string {
            "integer,string"
        } else {
            schema.kind.name()
        };
        let name = type_name(value);
        let detail = format!("{path} in body must be of type {wanted}: {name:?}");
        causes.push(Cause::wrong_type(path, &format!("{name:?}"), &detail));
        return;
    }
    if !schema.enumeration.is_empty() && !schema.enumeration.contains(value) {
        let supported: Vec<String> = schema
            .enumeration
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        causes.push(Cause::unsupported(path, value, &supported));
    }
    match value {
        Value::String(text) => string(text, value, schema, path, causes),
        Value::Number(_) => number(value, schema, path, causes),
        Value::Array(items) => array(items, schema, path, causes),
        Value::Object(map) => object(map, schema, path, causes),
        _ => {}
    }
    combinators(value, schema, path, causes);
}

fn type_fits(value: &Value, schema: &Schema) -> bool {
    if schema.int_or_string {
        return matches!(value, Value::String(_)) || value.is_i64() || value.is_u64();
    }
    match schema.kind {
        Type::Any => true,
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        Type::Integer => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
    }
}

fn string(text: &str, value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count();
    if let Some(max) = schema.limits.max_length.filter(|max| length > *max) {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {max} bytes"),
            field: path.to_owned(),
        });
    }
    if let Some(min) = schema.limits.min_length.filter(|min| length < *min) {
        causes.push(invalid(
            path,
            value,
            &format!("should be at least {min} chars long"),
        ));
    }
    if let Some((source, pattern)) = &schema.limits.pattern
        && !pattern.is_match(text)
    {
        causes.push(invalid(path, value, &format!("should match '{source}'")));
    }
    if !format_fits(text, &schema.format) {
        causes.push(invalid(
            path,
            value,
            &format!("must be of type {}: {text:?}", schema.format),
        ));
    }
}

fn format_fits(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => uuid::Uuid::parse_str(text).is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        "duration" => go_duration(text),
        _ => true,
    }
}

/// Go's `time.ParseDuration`, which Kubernetes' `duration` format uses.
fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if digits.len() == rest.len() {
            return false;
        }
        let Some(unit) = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().find(|u| {
            digits.strip_prefix(**u).is_some_and(|r| {
                r.is_empty() || r.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            })
        }) else {
            return false;
        };
        rest = digits.strip_prefix(unit).unwrap_or_default();
    }
    true
}

fn plain(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{}", number as i64)
    } else {
        number.to_string()
    }
}

fn number(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let Some(n) = value.as_f64() else { return };
    if let Some((max, exclusive)) = schema.limits.maximum
        && (n > max || (exclusive && n >= max))
    {
        let word = if exclusive {
            "less than"
        } else {
            "less than or equal to"
        };
        causes.push(invalid(
            path,
            value,
            &format!("should be {word} {}", plain(max)),
        ));
    }
    if let Some((min, exclusive)) = schema.limits.minimum
        && (n < min || (exclusive && n <= min))
    {
        let word = if exclusive {
            "greater than"
        } else {
            "greater than or equal to"
        };
        causes.push(invalid(
            path,
            value,
            &format!("should be {word} {}", plain(min)),
        ));
    }
    if let Some(step) = schema.limits.multiple_of.filter(|s| *s > 0.0)
        && ((n / step).fract()).abs() > 1e-9
    {
        causes.push(invalid(
            path,
            value,
            &format!("should be a multiple of {}", plain(step)),
        ));
    }
}

fn array(items: &[Value], schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let count = items.len();
    if let Some(min) = schema.limits.min_items.filter(|min| count < *min) {
        causes.push(invalid(
            path,
            &json!(count),
            &format!("should have at least {min} items"),
        ));
    }
    if let Some(max) = schema.limits.max_items.filter(|max| count > *max) {
        causes.push(too_many(path, count, max, "items"));
    }
    if schema.limits.unique_items && duplicate(items).is_some() {
        causes.push(invalid(path, &json!(items), "shouldn't contain duplicates"));
    }
    match &schema.list {
        ListKind::Atomic => {}
        ListKind::Set => {
            if let Some(at) = duplicate(items) {
                causes.push(Cause::duplicate(
                    format!("{path}[{at}]"),
                    items.get(at).unwrap_or(&Value::Null),
                ));
            }
        }
        ListKind::Map(keys) => {
            let identities: Vec<Value> = items.iter().map(|i| identity(i, keys)).collect();
            if let Some(at) = duplicate(&identities) {
                causes.push(Cause::duplicate(
                    format!("{path}[{at}]"),
                    identities.get(at).unwrap_or(&Value::Null),
                ));
            }
        }
    }
    if let Some(item) = &schema.items {
        for (i, element) in items.iter().enumerate() {
            at(element, item, &format!("{path}[{i}]"), causes);
        }
    }
}

fn identity(item: &Value, keys: &[String]) -> Value {
    Value::Object(
        keys.iter()
            .filter_map(|k| item.get(k).map(|v| (k.clone(), v.clone())))
            .collect::<Map<_, _>>(),
    )
}

fn duplicate(items: &[Value]) -> Option<usize> {
    let mut seen = std::collections::HashSet::new();
    items.iter().position(|item| !seen.insert(item.to_string()))
}

fn too_many(path: &str, count: usize, max: usize, what: &str) -> Cause {
    Cause {
        reason: "FieldValueTooMany",
        message: format!("Too many: {count}: must have at most {max} {what}"),
        field: path.to_owned(),
    }
}

fn object(map: &Map<String, Value>, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let count = map.len();
    if let Some(min) = schema.limits.min_properties.filter(|min| count < *min) {
        causes.push(invalid(
            path,
            &json!(map),
            &format!("should have at least {min} properties"),
        ));
    }
    if let Some(max) = schema.limits.max_properties.filter(|max| count > *max) {
        causes.push(too_many(path, count, max, "items"));
    }
    for name in &schema.required {
        if !map.contains_key(name) {
            causes.push(Cause::required(join(path, name), ""));
        }
    }
    for (name, value) in map {
        // ObjectMeta is checked by its own rules.
        if (path.is_empty() || schema.embedded)
            && matches!(name.as_str(), "metadata" | "apiVersion" | "kind")
        {
            continue;
        }
        match (schema.properties.get(name), &schema.additional) {
            (Some(property), _) => at(value, property, &join(path, name), causes),
            (None, Additional::Schema(inner)) => at(value, inner, &key(path, name), causes),
            _ => {}
        }
    }
    if schema.embedded {
        for name in ["apiVersion", "kind"] {
            if map
                .get(name)
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
            {
                causes.push(Cause::required(join(path, name), "must not be empty"));
            }
        }
    }
}

fn combinators(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let holds = |s: &Schema| {
        let mut inner = Vec::new();
        at(value, s, path, &mut inner);
        inner.is_empty()
    };
    let shown = match value {
        Value::Object(_) | Value::Array(_) => json!(""),
        other => other.clone(),
    };
    let mut refuse = |detail: String| {
        causes.push(Cause {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {}: {path:?} {detail}", go_value(&shown)),
            field: path.to_owned(),
        });
    };
    if !schema.any_of.is_empty() && !schema.int_or_string && !schema.any_of.iter().any(holds) {
        refuse("must validate at least one schema (anyOf)".to_owned());
    }
    if !schema.one_of.is_empty() {
        match schema.one_of.iter().filter(|s| holds(s)).count() {
            1 => {}
            0 => {
                refuse("must validate one and only one schema (oneOf). Found none valid".to_owned())
            }
            n => refuse(format!(
                "must validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    if schema.not.as_deref().is_some_and(holds) {
        refuse("must not validate the schema (not)".to_owned());
    }
    if !schema.int_or_string {
        for part in &schema.all_of {
            at(value, part, path, causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::compile;

    #[test]
    fn messages_are_those_of_kubernetes() {
        let cases = [
            (
                json!({"type": "integer"}),
                json!("a"),
                "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                "spec.x: Invalid value: \"null\": spec.x in body must be of type string: \"null\"",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                "spec.x: Invalid value: \"b\": spec.x in body should match '^a+$'",
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "integer", "maximum": 65535.0}),
                json!(65536),
                "spec.x: Invalid value: 65536: spec.x in body should be less than or equal to 65535",
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("abc"),
                "spec.x: Too long: may not be more than 2 bytes",
            ),
            (
                json!({"type": "string", "minLength": 2}),
                json!("a"),
                "spec.x: Invalid value: \"a\": spec.x in body should be at least 2 chars long",
            ),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "spec.x: Invalid value: 0: spec.x in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "maxItems": 1}),
                json!([1, 2]),
                "spec.x: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "object", "required": ["a"]}),
                json!({}),
                "spec.x.a: Required value",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!(["a", 1]),
                "spec.x[1]: Invalid value: \"integer\": spec.x[1] in body must be of type string: \"integer\"",
            ),
            (
                json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({}),
                "spec.x: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found none valid",
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "set"}),
                json!(["a", "a"]),
                "spec.x[1]: Duplicate value: \"a\"",
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("x"),
                "spec.x: Invalid value: \"x\": spec.x in body must be of type ipv4: \"x\"",
            ),
        ];
        for (property, value, expected) in cases {
            let schema = compile(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": property}}}})).unwrap();
            let causes = check(&json!({"spec": {"x": value}}), &schema);
            let texts: Vec<String> = causes
                .iter()
                .map(|c| format!("{}: {}", c.field, c.message))
                .collect();
            assert_eq!(texts, [expected]);
        }
    }

    #[test]
    fn good_values_pass() {
        let cases = [
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!("10%"),
            ),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"type": "number"}), json!(1)),
            (
                json!({"type": "string", "format": "duration"}),
                json!("1h30m"),
            ),
            (
                json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
                json!(1),
            ),
            (json!({"type": "integer"}), json!(3.0)),
        ];
        for (property, value) in cases {
            let schema =
                compile(&json!({"type": "object", "properties": {"x": property}})).unwrap();
            assert_eq!(check(&json!({"x": value}), &schema), []);
        }
    }
}
