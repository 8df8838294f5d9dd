//! Takes out of an answer what differs from run to run: uids, times, versions, generated names, addresses

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// Patterns of values in texts, and what stands for them.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let patterns = [
        (
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
            "<uid>",
        ),
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\b", "<time>"),
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", "<token>"),
        (r"\bdefault-token-[a-z0-9]{5}\b", "default-token-<random>"),
        (r"\b10\.96\.\d+\.\d+\b", "<cluster-ip>"),
    ];
    patterns
        .into_iter()
        .filter_map(|(pattern, stand_in)| Some((Regex::new(pattern).ok()?, stand_in)))
        .collect()
});

/// The answer with stand-ins for what is volatile, keys in order.
pub(crate) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => object(map),
        Value::Array(list) => Value::Array(list.iter().map(normal).collect()),
        Value::String(text) => Value::String(plain(text)),
        other => other.clone(),
    }
}

fn object(map: &Map<String, Value>) -> Value {
    let generated = map.get("generateName").and_then(Value::as_str);
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    let mut result = Map::new();
    for key in keys {
        let Some(value) = map.get(key) else { continue };
        let stand_in = match (key.as_str(), value) {
            ("managedFields" | "selfLink", _) => continue,
            // Written by servers before 1.34 where nothing is set; absent and null are the same to every client.
            ("creationTimestamp" | "object" | "boundObjectRef", Value::Null) => continue,
            ("resourceVersion", Value::String(text)) if !text.is_empty() => {
                Some("<version>".to_owned())
            }
            ("continue", Value::String(text)) if !text.is_empty() => Some("<continue>".to_owned()),
            ("nodePort", _) => Some("<port>".to_owned()),
            ("name", _) if generated.is_some() => {
                generated.map(|prefix| format!("{prefix}<random>"))
            }
            // A set, in whatever order.
            ("verbs", Value::Array(verbs)) => {
                let mut verbs = verbs.clone();
                verbs.sort_by_key(Value::to_string);
                result.insert(key.clone(), Value::Array(verbs));
                continue;
            }
            // The columns of a table: an age is a small number with a unit.
            ("cells", Value::Array(cells)) => {
                result.insert(key.clone(), Value::Array(cells.iter().map(cell).collect()));
                continue;
            }
            _ => None,
        };
        result.insert(
            key.clone(),
            stand_in.map_or_else(|| normal(value), Value::String),
        );
    }
    Value::Object(result)
}

fn cell(value: &Value) -> Value {
    static AGE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^(\d+[smhd])+$|^<unknown>$|^<invalid>$").ok());
    match value {
        Value::String(text) if AGE.as_ref().is_some_and(|age| age.is_match(text)) => {
            Value::String("<age>".to_owned())
        }
        other => normal(other),
    }
}

fn plain(text: &str) -> String {
    VOLATILE
        .iter()
        .fold(text.to_owned(), |text, (pattern, stand_in)| {
            pattern.replace_all(&text, *stand_in).into_owned()
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volatile_values_have_stand_ins() {
        let cases = [
            (
                json!({"uid": "0a1b2c3d-0000-1111-2222-333344445555"}),
                json!({"uid": "<uid>"}),
            ),
            (
                json!({"creationTimestamp": "2026-01-01T00:00:00Z"}),
                json!({"creationTimestamp": "<time>"}),
            ),
            (json!({"creationTimestamp": null}), json!({})),
            (
                json!({"resourceVersion": "17"}),
                json!({"resourceVersion": "<version>"}),
            ),
            (
                json!({"resourceVersion": ""}),
                json!({"resourceVersion": ""}),
            ),
            (
                json!({"generateName": "a-", "name": "a-x1y2z"}),
                json!({"generateName": "a-", "name": "a-<random>"}),
            ),
            (
                json!({"managedFields": [], "name": "a"}),
                json!({"name": "a"}),
            ),
            (
                json!({"cells": ["a", 1, "12s"]}),
                json!({"cells": ["a", 1, "<age>"]}),
            ),
            (
                json!({"clusterIPs": ["10.96.3.4"]}),
                json!({"clusterIPs": ["<cluster-ip>"]}),
            ),
        ];
        for (before, after) in cases {
            assert_eq!(normal(&before), after);
        }
    }
}
