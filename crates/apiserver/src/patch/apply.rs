//! Server-side apply: merge what a manager declares, remove what it declared before and does no longer.
//!
//! Field sets are kept in `metadata.managedFields` for appliers only (plain writers are not tracked), in Kubernetes' FieldsV1
//! form. There are no conflicts: the last applier wins.

use serde_json::{Map, Value, json};

use crate::schema::{Additional, Definitions, ListKind, Schema};

/// Merges `config`, declared by `manager`, into `current`.
pub fn apply(
    current: &Value,
    config: &Value,
    manager: &str,
    schema: &Schema,
    definitions: &Definitions,
) -> Value {
    let mut next = current.clone();
    let mut config = config.clone();
    let api_version = config["apiVersion"].as_str().unwrap_or_default().to_owned();
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let walk = Walk { definitions };
    let declared = walk.fields(&config, schema);
    let mut managers: Vec<Value> = current
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let at = managers
        .iter()
        .position(|m| m["manager"] == manager && m["operation"] == "Apply");
    if let Some(before) = at.map(|i| managers.remove(i)) {
        let others: Vec<&Value> = managers.iter().map(|m| &m["fieldsV1"]).collect();
        remove(&mut next, &before["fieldsV1"], &declared, &others);
    }
    walk.merge(&mut next, &config, schema);
    managers.push(json!({
        "manager": manager, "operation": "Apply", "apiVersion": api_version,
        "time": crate::object::now(), "fieldsType": "FieldsV1", "fieldsV1": declared,
    }));
    if let Some(metadata) = next.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".to_owned(), Value::Array(managers));
    }
    next
}

struct Walk<'a> {
    definitions: &'a Definitions,
}

static ANY: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);

/// How a list's elements are identified.
enum Identity {
    Atomic,
    Set,
    Keys(Vec<String>),
}

fn identity(schema: &Schema, name: &str) -> Identity {
    match (&schema.list, schema.merge_key) {
        (ListKind::Map(keys), _) => Identity::Keys(keys.clone()),
        (_, Some(key)) => Identity::Keys(vec![key.to_owned()]),
        (ListKind::Set, _) => Identity::Set,
        (ListKind::Atomic, None) if name == "finalizers" => Identity::Set,
        (ListKind::Atomic, None) => Identity::Atomic,
    }
}

fn key_of(item: &Value, keys: &[String]) -> String {
    let map: Map<String, Value> = keys
        .iter()
        .filter_map(|k| item.get(k).map(|v| (k.clone(), v.clone())))
        .collect();
    format!("k:{}", Value::Object(map))
}

impl Walk<'_> {
    fn property<'s>(&'s self, schema: &'s Schema, name: &str) -> &'s Schema {
        let resolved = self.definitions.resolve(schema);
        match (resolved.properties.get(name), &resolved.additional) {
            (Some(property), _) => property,
            (None, Additional::Schema(inner)) => inner,
            _ => &ANY,
        }
    }

    fn merge(&self, current: &mut Value, config: &Value, schema: &Schema) {
        let Value::Object(changes) = config else {
            *current = config.clone();
            return;
        };
        if !current.is_object() {
            *current = json!({});
        }
        let Some(map) = current.as_object_mut() else {
            return;
        };
        for (name, value) in changes {
            let property = self.property(schema, name);
            match (map.get_mut(name), value) {
                (_, Value::Null) => drop(map.remove(name)),
                (Some(present), Value::Object(_)) => self.merge(present, value, property),
                (Some(Value::Array(items)), Value::Array(wanted)) => {
                    self.lists(items, wanted, property, name)
                }
                _ => drop(map.insert(name.clone(), value.clone())),
            }
        }
    }

    fn lists(&self, items: &mut Vec<Value>, wanted: &[Value], schema: &Schema, name: &str) {
        match identity(schema, name) {
            Identity::Atomic => *items = wanted.to_vec(),
            Identity::Set => {
                let fresh: Vec<Value> = wanted
                    .iter()
                    .filter(|w| !items.contains(w))
                    .cloned()
                    .collect();
                items.extend(fresh);
            }
            Identity::Keys(keys) => {
                let element = schema.items.as_deref().unwrap_or(&ANY);
                for want in wanted {
                    let key = key_of(want, &keys);
                    match items.iter_mut().find(|i| key_of(i, &keys) == key) {
                        Some(present) => self.merge(present, want, element),
                        None => items.push(want.clone()),
                    }
                }
            }
        }
    }

    /// The FieldsV1 of a declared object (identity fields at the root do not count).
    fn fields(&self, config: &Value, schema: &Schema) -> Value {
        let mut set = self.object(config, schema);
        if let Some(map) = set.as_object_mut() {
            map.remove("f:apiVersion");
            map.remove("f:kind");
            if let Some(metadata) = map.get_mut("f:metadata").and_then(Value::as_object_mut) {
                for name in [
                    "f:name",
                    "f:namespace",
                    "f:uid",
                    "f:resourceVersion",
                    "f:creationTimestamp",
                ] {
                    metadata.remove(name);
                }
            }
        }
        set
    }

    fn object(&self, config: &Value, schema: &Schema) -> Value {
        let mut set = Map::new();
        for (name, value) in config.as_object().into_iter().flatten() {
            let property = self.property(schema, name);
            let inner = match value {
                Value::Object(map) if !map.is_empty() => self.object(value, property),
                Value::Array(items) => match identity(property, name) {
                    Identity::Atomic => json!({}),
                    Identity::Set => items
                        .iter()
                        .map(|i| (format!("v:{i}"), json!({})))
                        .collect::<Map<_, _>>()
                        .into(),
                    Identity::Keys(keys) => {
                        let element = property.items.as_deref().unwrap_or(&ANY);
                        let of = |i: &Value| {
                            let mut inner = self.object(i, element);
                            inner["."] = json!({});
                            (key_of(i, &keys), inner)
                        };
                        items.iter().map(of).collect::<Map<_, _>>().into()
                    }
                },
                _ => json!({}),
            };
            set.insert(format!("f:{name}"), inner);
        }
        Value::Object(set)
    }
}

/// Removes from `value` what `before` names and neither `now` nor any of `others` does.
fn remove(value: &mut Value, before: &Value, now: &Value, others: &[&Value]) {
    let Some(before) = before.as_object() else {
        return;
    };
    for (path, inner) in before {
        if path == "." {
            continue;
        }
        let kept: Vec<&Value> = others.iter().filter_map(|o| o.get(path)).collect();
        let still = now.get(path);
        let leaf = inner.as_object().is_none_or(Map::is_empty);
        let gone = still.is_none() && kept.is_empty();
        if !gone {
            if !leaf && let Some(child) = child(value, path) {
                remove(child, inner, still.unwrap_or(&Value::Null), &kept);
            }
            continue;
        }
        // A map that others may have filled too loses only what was declared.
        let container = !leaf && path.starts_with("f:");
        if container && let Some(child) = child(value, path) {
            remove(child, inner, &Value::Null, &[]);
            let empty = child.as_object().is_some_and(Map::is_empty)
                || child.as_array().is_some_and(Vec::is_empty);
            if !empty {
                continue;
            }
        }
        drop_child(value, path);
    }
}

fn matches_key(item: &Value, keys: &str) -> bool {
    let Ok(Value::Object(keys)) = serde_json::from_str::<Value>(keys) else {
        return false;
    };
    keys.iter().all(|(k, v)| item.get(k) == Some(v))
}

fn child<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    if let Some(name) = path.strip_prefix("f:") {
        return value.get_mut(name);
    }
    let keys = path.strip_prefix("k:")?;
    value
        .as_array_mut()?
        .iter_mut()
        .find(|i| matches_key(i, keys))
}

fn drop_child(value: &mut Value, path: &str) {
    match (path.get(..2), path.get(2..), value) {
        (Some("f:"), Some(name), Value::Object(map)) => drop(map.remove(name)),
        (Some("k:"), Some(keys), Value::Array(items)) => items.retain(|i| !matches_key(i, keys)),
        (Some("v:"), Some(text), Value::Array(items)) => {
            let gone = serde_json::from_str::<Value>(text).ok();
            items.retain(|i| Some(i) != gone.as_ref());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn what_a_manager_no_longer_declares_goes_and_what_others_set_stays() {
        let builtin = kinds::builtin();
        let schema = kinds::schema_of("io.k8s.api.core.v1.ConfigMap");
        let live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"by": "hand"}}});
        let config = |data: Value, labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": labels}, "data": data});
        let one = apply(
            &live,
            &config(json!({"a": "1", "b": "2"}), json!({"x": "1"})),
            "m",
            &schema,
            &builtin.definitions,
        );
        let shared = apply(
            &one,
            &config(json!({"b": "3"}), json!({})),
            "other",
            &schema,
            &builtin.definitions,
        );
        let two = apply(
            &shared,
            &config(json!({"c": "4"}), json!({})),
            "m",
            &schema,
            &builtin.definitions,
        );
        assert_eq!(two["data"], json!({"b": "3", "c": "4"}));
        assert_eq!(two["metadata"]["labels"], json!({"by": "hand"}));
        assert_eq!(
            two["metadata"]["managedFields"].as_array().unwrap().len(),
            2
        );
    }

    #[test]
    fn lists_with_keys_lose_only_the_elements_that_were_dropped() {
        let builtin = kinds::builtin();
        let schema = kinds::schema_of("io.k8s.api.apps.v1.Deployment");
        let config = |names: &[&str]| {
            let containers: Vec<Value> = names
                .iter()
                .map(|n| json!({"name": n, "image": "i"}))
                .collect();
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": containers}}}})
        };
        let mut live = apply(
            &json!({"metadata": {}}),
            &config(&["a", "b"]),
            "m",
            &schema,
            &builtin.definitions,
        );
        live["spec"]["template"]["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "hand"}));
        let next = apply(&live, &config(&["b"]), "m", &schema, &builtin.definitions);
        let names: Vec<&str> = next["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["b", "hand"]);
    }
}
