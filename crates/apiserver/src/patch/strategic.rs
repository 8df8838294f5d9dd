//! Strategic merge patch: like a JSON merge patch, but lists that have a merge key are merged by it, and `$patch`,
//! `$retainKeys`, `$deleteFromPrimitiveList/…` and `$setElementOrder/…` direct the merge.

use serde_json::{Map, Value};

use crate::schema::{Definitions, Schema, Type};
use crate::status::{Failure, Outcome};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";

/// Merges a patch into an object.
pub fn merge(
    current: &mut Value,
    patch: &Value,
    schema: &Schema,
    definitions: &Definitions,
) -> Outcome<()> {
    let (Some(map), Some(changes)) = (current.as_object_mut(), patch.as_object()) else {
        return Err(Failure::bad_request(
            "error decoding patch: the patch is not a JSON object",
        ));
    };
    Merge { definitions }.objects(map, changes, definitions.resolve(schema))
}

struct Merge<'a> {
    definitions: &'a Definitions,
}

static ANY: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);

impl<'a> Merge<'a> {
    fn field<'s>(&'s self, schema: &'s Schema, name: &str) -> &'s Schema {
        match (schema.properties.get(name), &schema.additional) {
            (Some(property), _) => property,
            (None, crate::schema::Additional::Schema(inner)) => inner,
            _ => &ANY,
        }
    }

    fn objects(
        &self,
        map: &mut Map<String, Value>,
        patch: &Map<String, Value>,
        schema: &Schema,
    ) -> Outcome<()> {
        match patch.get(PATCH).and_then(Value::as_str) {
            Some("replace") => {
                *map = patch
                    .iter()
                    .filter(|(k, _)| *k != PATCH)
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                return Ok(());
            }
            Some("delete") => {
                map.clear();
                return Ok(());
            }
            Some("merge") | None => {}
            Some(other) => {
                return Err(Failure::bad_request(format!(
                    "unknown patch type found: {other}"
                )));
            }
        }
        if let Some(keep) = patch.get(RETAIN).and_then(Value::as_array) {
            map.retain(|name, _| keep.iter().any(|k| k.as_str() == Some(name)));
        }
        let ordered: Vec<&str> = patch.keys().filter_map(|k| k.strip_prefix(ORDER)).collect();
        let before: Map<String, Value> = ordered
            .iter()
            .filter_map(|l| map.get(*l).map(|v| ((*l).to_owned(), v.clone())))
            .collect();
        for (name, value) in patch {
            if name == PATCH || name == RETAIN || name.starts_with(ORDER) {
                continue;
            }
            if let Some(list) = name.strip_prefix(DELETE_PRIMITIVE) {
                if let (Some(items), Some(gone)) = (
                    map.get_mut(list).and_then(Value::as_array_mut),
                    value.as_array(),
                ) {
                    items.retain(|item| !gone.contains(item));
                }
                continue;
            }
            self.member(map, name, value, self.field(schema, name), &ordered)?;
        }
        for (name, wanted) in patch {
            let Some(list) = name.strip_prefix(ORDER) else {
                continue;
            };
            if let (Some(items), Some(wanted)) = (
                map.get_mut(list).and_then(Value::as_array_mut),
                wanted.as_array(),
            ) {
                let before = before
                    .get(list)
                    .and_then(|v| v.as_array())
                    .cloned()
                    .unwrap_or_default();
                arrange(items, &before, wanted, self.field(schema, list).merge_key);
            }
        }
        Ok(())
    }

    fn member(
        &self,
        map: &mut Map<String, Value>,
        name: &str,
        value: &Value,
        schema: &Schema,
        ordered: &[&str],
    ) -> Outcome<()> {
        if value.is_null() {
            map.remove(name);
            return Ok(());
        }
        let resolved = self.definitions.resolve(schema);
        match (map.get_mut(name), value) {
            (Some(Value::Object(inner)), Value::Object(changes)) => {
                self.objects(inner, changes, resolved)
            }
            (Some(Value::Array(items)), Value::Array(changes)) => match schema.merge_key {
                Some(key) => {
                    let before = items.clone();
                    self.lists(items, changes, key, schema)?;
                    if !ordered.contains(&name) {
                        arrange(items, &before, changes, Some(key));
                    }
                    Ok(())
                }
                None if is_merged_set(name, schema) => {
                    items.extend(
                        changes
                            .iter()
                            .filter(|c| !items.contains(c))
                            .cloned()
                            .collect::<Vec<_>>(),
                    );
                    Ok(())
                }
                None => {
                    *items = changes.clone();
                    Ok(())
                }
            },
            (_, Value::Object(changes)) => {
                let mut fresh = Map::new();
                self.objects(&mut fresh, changes, resolved)?;
                if changes.get(PATCH).and_then(Value::as_str) != Some("delete") {
                    map.insert(name.to_owned(), Value::Object(fresh));
                }
                Ok(())
            }
            (_, Value::Array(changes)) if schema.merge_key.is_some() => {
                let mut items = Vec::new();
                self.lists(
                    &mut items,
                    changes,
                    schema.merge_key.unwrap_or_default(),
                    schema,
                )?;
                map.insert(name.to_owned(), Value::Array(items));
                Ok(())
            }
            _ => {
                map.insert(name.to_owned(), value.clone());
                Ok(())
            }
        }
    }

    fn lists(
        &self,
        items: &mut Vec<Value>,
        changes: &[Value],
        key: &str,
        schema: &Schema,
    ) -> Outcome<()> {
        let element = schema
            .items
            .as_deref()
            .map_or(&*ANY, |i| self.definitions.resolve(i));
        let replaces = changes.iter().any(|c| {
            c.get(PATCH).and_then(Value::as_str) == Some("replace")
                && c.as_object().is_some_and(|m| m.len() == 1)
        });
        if replaces {
            items.clear();
        }
        for change in changes {
            let Some(map) = change.as_object() else {
                return Err(Failure::bad_request(format!(
                    "expected an object in a list merged by {key:?}, got {change}"
                )));
            };
            let directive = map.get(PATCH).and_then(Value::as_str);
            if directive == Some("replace") && map.len() == 1 {
                continue;
            }
            let Some(identity) = map.get(key).filter(|v| !v.is_null()) else {
                return Err(Failure::bad_request(format!(
                    "map: {change} does not contain declared merge key: {key}"
                )));
            };
            if directive == Some("delete") {
                items.retain(|item| item.get(key) != Some(identity));
                continue;
            }
            match items
                .iter_mut()
                .find(|item| item.get(key) == Some(identity))
                .and_then(Value::as_object_mut)
            {
                Some(present) => self.objects(present, map, element)?,
                None => {
                    let mut fresh = Map::new();
                    self.objects(&mut fresh, map, element)?;
                    items.push(Value::Object(fresh));
                }
            }
        }
        Ok(())
    }
}

/// Orders a merged list as Kubernetes does: the elements that the patch names come in the patch's order, the others in their
/// old order, and one of the others goes first only if it stood before the named one that is next.
fn arrange(items: &mut Vec<Value>, before: &[Value], named: &[Value], key: Option<&str>) {
    let same = |a: &Value, b: &Value| match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    };
    let rank = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut patched, others): (Vec<Value>, Vec<Value>) = items
        .drain(..)
        .partition(|item| rank(named, item).is_some());
    patched.sort_by_key(|item| rank(named, item));
    let (mut patched, mut others) = (
        patched.into_iter().peekable(),
        others.into_iter().peekable(),
    );
    loop {
        let other_first = match (others.peek(), patched.peek()) {
            (Some(other), Some(item)) => {
                matches!((rank(before, other), rank(before, item)), (Some(o), Some(i)) if o < i)
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return,
        };
        items.extend(if other_first {
            others.next()
        } else {
            patched.next()
        });
    }
}

/// `metadata.finalizers` is the one list of scalars with `patchStrategy: merge`.
fn is_merged_set(name: &str, schema: &Schema) -> bool {
    name == "finalizers"
        && schema
            .items
            .as_deref()
            .is_some_and(|i| i.kind == Type::String)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn patched(current: Value, patch: Value) -> Value {
        let builtin = kinds::builtin();
        let schema = kinds::schema_of("io.k8s.api.apps.v1.Deployment");
        let mut value = current;
        merge(&mut value, &patch, &schema, &builtin.definitions).unwrap();
        value
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": list}}}})
    }

    #[test]
    fn lists_are_merged_by_key_replaced_deleted_and_ordered() {
        let a = json!({"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]});
        let b = json!({"name": "b", "image": "1"});
        let cases = [
            // Merge one, add one.
            (
                json!([a, b]),
                json!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "3"}]),
                json!([{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "c", "image": "3"}, b]),
            ),
            // Delete by directive, also of something absent.
            (
                json!([a, b]),
                json!([{"name": "a", "$patch": "delete"}, {"name": "z", "$patch": "delete"}]),
                json!([b]),
            ),
            // Replace the whole list.
            (
                json!([a, b]),
                json!([{"$patch": "replace"}, {"name": "z"}]),
                json!([{"name": "z"}]),
            ),
            // Replace one element.
            (
                json!([a]),
                json!([{"name": "a", "$patch": "replace", "image": "9"}]),
                json!([{"name": "a", "image": "9"}]),
            ),
            // Atomic lists inside.
            (
                json!([{"name": "a", "args": ["1", "2"]}]),
                json!([{"name": "a", "args": ["3"]}]),
                json!([{"name": "a", "args": ["3"]}]),
            ),
        ];
        for (current, patch, expected) in cases {
            assert_eq!(
                patched(containers(current), containers(patch)),
                containers(expected)
            );
        }
    }

    #[test]
    fn order_directive_permutes_named_elements_only() {
        let current = containers(json!([{"name": "sidecar"}, {"name": "a"}, {"name": "b"}]));
        let patch = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}],
        }}}});
        assert_eq!(
            patched(current, patch),
            containers(json!([{"name": "sidecar"}, {"name": "b", "image": "x"}, {"name": "a"}]))
        );
    }

    #[test]
    fn maps_null_retain_keys_and_finalizers() {
        let current = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"x": null, "z": "3"}},
            "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
        });
        assert_eq!(
            patched(current, patch),
            json!({
                "metadata": {"finalizers": ["b", "c"], "labels": {"y": "2", "z": "3"}}, "spec": {"strategy": {"type": "Recreate"}},
            })
        );
    }

    #[test]
    fn a_list_element_without_its_key_is_refused() {
        let builtin = kinds::builtin();
        let mut value = containers(json!([]));
        let schema = kinds::schema_of("io.k8s.api.apps.v1.Deployment");
        let failure = merge(
            &mut value,
            &containers(json!([{"image": "x"}])),
            &schema,
            &builtin.definitions,
        )
        .unwrap_err();
        assert!(
            failure
                .message
                .contains("does not contain declared merge key: name")
        );
    }
}
