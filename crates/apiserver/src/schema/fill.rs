//! Defaults of custom kinds.

use serde_json::Value;

use super::{Additional, Schema};

/// Fills in `default`s, recursively; a `null` where null is no value counts as absent when there is a default.
pub fn fill(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                if let Some(default) = &property.default {
                    let absent = map
                        .get(name)
                        .is_none_or(|v| v.is_null() && !property.nullable);
                    if absent {
                        map.insert(name.clone(), default.clone());
                    }
                }
                if let Some(child) = map.get_mut(name) {
                    fill(child, property);
                }
            }
            if let Additional::Schema(inner) = &schema.additional {
                for (name, child) in map.iter_mut() {
                    if !schema.properties.contains_key(name) {
                        if let Some(default) = inner
                            .default
                            .as_ref()
                            .filter(|_| child.is_null() && !inner.nullable)
                        {
                            *child = default.clone();
                        }
                        fill(child, inner);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &schema.items {
                for element in items {
                    fill(element, item);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::compile;
    use serde_json::json;

    #[test]
    fn defaults_reach_into_maps_lists_and_defaulted_objects() {
        let schema = compile(&json!({"type": "object", "properties": {
            "a": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 7}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "tcp"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"q": {"type": "boolean", "default": true}}}},
            "n": {"type": "string", "nullable": true, "default": "x"},
            "o": {"type": "string", "default": "y"},
            "none": {"type": "object", "properties": {"z": {"type": "integer", "default": 1}}},
        }}))
        .unwrap();
        let mut value = json!({"list": [{}, {"p": "udp"}], "map": {"k": {}}, "n": null, "o": null});
        fill(&mut value, &schema);
        assert_eq!(
            value,
            json!({
                "a": {"b": 7}, "list": [{"p": "tcp"}, {"p": "udp"}], "map": {"k": {"q": true}}, "n": null, "o": "y",
            })
        );
    }
}
