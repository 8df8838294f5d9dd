//! Reading an object against its schema: unknown fields are dropped and noted, wrong JSON types of built-in kinds are
//! errors in the words of Go's JSON decoder.

use serde_json::{Map, Value};

use super::{Additional, Definitions, Schema, Type};

/// What was found while reading.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths of fields that the schema does not know, in order of appearance.
    pub unknown: Vec<String>,
    /// First wrong type, as Go words it (built-in kinds only).
    pub mismatch: Option<String>,
}

/// Drops what a built-in kind does not know, and nulls; checks types.
pub fn builtin(value: &mut Value, schema: &Schema, definitions: &Definitions) -> Report {
    let mut walk = Walk {
        definitions,
        report: Report::default(),
        typed: true,
    };
    let root = schema.reference.as_deref().unwrap_or_default();
    walk.value(value, schema, "", short(root));
    walk.report
}

/// Drops what a custom kind's structural schema does not know; types are validation's job.
pub fn structural(value: &mut Value, schema: &Schema, definitions: &Definitions) -> Report {
    let mut walk = Walk {
        definitions,
        report: Report::default(),
        typed: false,
    };
    if let Value::Object(map) = value {
        walk.custom_root(map, schema, "");
    }
    walk.report
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

struct Walk<'a> {
    definitions: &'a Definitions,
    report: Report,
    typed: bool,
}

impl Walk<'_> {
    /// The root (and each embedded object) has apiVersion, kind and metadata whatever the schema says.
    fn custom_root(&mut self, map: &mut Map<String, Value>, schema: &Schema, path: &str) {
        let saved: Vec<(String, Value)> = ["apiVersion", "kind", "metadata"]
            .iter()
            .filter_map(|k| map.remove_entry(*k))
            .collect();
        self.fields(map, schema, path, "");
        map.extend(saved);
    }

    fn value(&mut self, value: &mut Value, schema: &Schema, path: &str, owner: &str) {
        let resolved = self.definitions.resolve(schema);
        let owner = schema.reference.as_deref().map_or(owner, short);
        if self.typed && self.mismatched(value, resolved, path, owner) {
            return;
        }
        match value {
            Value::Object(map) if resolved.embedded => self.custom_root(map, resolved, path),
            Value::Object(map) => self.fields(map, resolved, path, owner),
            Value::Array(items) => {
                if let Some(item) = &resolved.items {
                    for (i, element) in items.iter_mut().enumerate() {
                        self.value(element, item, &format!("{path}[{i}]"), owner);
                    }
                }
            }
            _ => {}
        }
    }

    fn fields(&mut self, map: &mut Map<String, Value>, schema: &Schema, path: &str, owner: &str) {
        let names: Vec<String> = map.keys().cloned().collect();
        for name in names {
            let Some(value) = map.get_mut(&name) else {
                continue;
            };
            let property = match (schema.properties.get(&name), &schema.additional) {
                (Some(property), _) => Some(property),
                (None, Additional::Schema(inner)) => Some(&**inner),
                (None, Additional::Any) => continue,
                (None, Additional::None) => None,
            };
            match property {
                // Go reads null as "not given".
                Some(_) if self.typed && value.is_null() => drop(map.remove(&name)),
                Some(property) => {
                    self.value(value, property, &join(path, &name), owner);
                }
                None if schema.preserve_unknown => {}
                None => {
                    self.report.unknown.push(join(path, &name));
                    map.remove(&name);
                }
            }
        }
    }

    fn mismatched(&mut self, value: &mut Value, schema: &Schema, path: &str, owner: &str) -> bool {
        if schema.int_or_string {
            // Quantities and IntOrString take both; booleans and containers they do not.
            if matches!(value, Value::Number(_) | Value::String(_)) {
                return false;
            }
            return self.note(value, "string", path, owner);
        }
        let fits = match (schema.kind, &*value) {
            (Type::Any, _) => true,
            (Type::Object, Value::Object(_))
            | (Type::Array, Value::Array(_))
            | (Type::Boolean, Value::Bool(_)) => true,
            (Type::String, Value::String(text)) => {
                return self.bad_string(text.clone(), schema, path);
            }
            (Type::Integer, Value::Number(n)) => {
                n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0)
            }
            (Type::Number, Value::Number(_)) => true,
            _ => false,
        };
        if fits {
            if schema.kind == Type::Integer
                && let Some(whole) = value.as_f64().filter(|_| value.is_f64())
            {
                *value = Value::from(whole as i64);
            }
            return false;
        }
        let wanted = go_type(schema, self.definitions);
        self.note(value, &wanted, path, owner)
    }

    fn bad_string(&mut self, text: String, schema: &Schema, path: &str) -> bool {
        use base64::Engine;
        let error = match schema.format.as_str() {
            "byte"
                if base64::engine::general_purpose::STANDARD
                    .decode(&text)
                    .is_err() =>
            {
                let good = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
                let at = text.find(|c| !good(c)).unwrap_or(text.len() & !3);
                format!("illegal base64 data at input byte {at}")
            }
            "date-time" if text.parse::<jiff::Timestamp>().is_err() => {
                format!(
                    "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""
                )
            }
            _ => return false,
        };
        let _ = path;
        self.report.mismatch.get_or_insert(error);
        true
    }

    fn note(&mut self, value: &Value, wanted: &str, path: &str, owner: &str) -> bool {
        let got = match value {
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if wanted.starts_with("int") => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            other => super::type_name(other).to_owned(),
        };
        let path = strip_indices(path);
        let text = format!(
            "json: cannot unmarshal {got} into Go struct field {owner}.{path} of type {wanted}"
        );
        self.report.mismatch.get_or_insert(text);
        true
    }
}

/// Go prints field paths without list indices.
fn strip_indices(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

fn go_type(schema: &Schema, definitions: &Definitions) -> String {
    match schema.kind {
        Type::Integer => if schema.format == "int32" {
            "int32"
        } else {
            "int64"
        }
        .to_owned(),
        Type::Number => "float64".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::String | Type::Any => "string".to_owned(),
        Type::Array => {
            let Some(item) = &schema.items else {
                return "[]interface {}".to_owned();
            };
            let inner = item.reference.as_deref().map(go_struct);
            format!(
                "[]{}",
                inner.unwrap_or_else(|| go_type(definitions.resolve(item), definitions))
            )
        }
        Type::Object => match &schema.additional {
            Additional::Schema(inner) => format!(
                "map[string]{}",
                go_type(definitions.resolve(inner), definitions)
            ),
            _ => "struct".to_owned(),
        },
    }
}

/// `io.k8s.api.core.v1.Container` → `v1.Container`.
fn go_struct(name: &str) -> String {
    let mut parts = name.rsplit('.');
    let last = parts.next().unwrap_or_default();
    format!("{}.{last}", parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::compile;
    use serde_json::json;

    #[test]
    fn custom_objects_lose_unknown_fields_but_not_where_they_are_preserved() {
        let schema = compile(&json!({
            "type": "object",
            "properties": {
                "spec": {"type": "object", "properties": {
                    "known": {"type": "string"},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"strict": {"type": "object"}}},
                    "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer"}}}},
                    "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
                    "object": {"type": "object", "x-kubernetes-embedded-resource": true},
                }},
            },
        }))
        .unwrap();
        let mut value = json!({
            "apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}, "extra": 1,
            "spec": {
                "known": "k", "gone": 1, "free": {"any": {"thing": 1}, "strict": {"dropped": 1}},
                "map": {"one": {"a": 1, "b": 2}}, "list": [{"a": 1, "c": 3}],
                "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
            },
        });
        let report = structural(&mut value, &schema, &Definitions::default());
        assert_eq!(
            report.unknown,
            [
                "extra",
                "spec.free.strict.dropped",
                "spec.gone",
                "spec.list[0].c",
                "spec.map.one.b",
                "spec.object.spec"
            ]
        );
        assert_eq!(
            value,
            json!({
                "apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"},
                "spec": {
                    "known": "k", "free": {"any": {"thing": 1}, "strict": {}}, "map": {"one": {"a": 1}}, "list": [{"a": 1}],
                    "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}},
                },
            })
        );
    }

    #[test]
    fn built_in_kinds_report_types_as_go_does() {
        let documents = json!({
            "io.k8s.api.apps.v1.Deployment": {"type": "object", "properties": {"spec": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]}}},
            "io.k8s.api.apps.v1.DeploymentSpec": {"type": "object", "properties": {
                "replicas": {"type": "integer", "format": "int32"},
                "args": {"type": "array", "items": {"type": "string"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            }},
        });
        let definitions = Definitions::compile(documents.as_object().unwrap());
        let schema = Schema {
            reference: Some("io.k8s.api.apps.v1.Deployment".into()),
            ..Schema::default()
        };
        let cases = [
            (
                json!({"spec": {"replicas": "x"}}),
                Some(
                    "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
                ),
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                Some(
                    "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
                ),
            ),
            (
                json!({"spec": {"args": [1]}}),
                Some(
                    "json: cannot unmarshal number into Go struct field DeploymentSpec.spec.args of type string",
                ),
            ),
            (
                json!({"spec": {"labels": {"a": true}}}),
                Some(
                    "json: cannot unmarshal bool into Go struct field DeploymentSpec.spec.labels.a of type string",
                ),
            ),
            (
                json!({"spec": {"args": {}}}),
                Some(
                    "json: cannot unmarshal object into Go struct field DeploymentSpec.spec.args of type []string",
                ),
            ),
            (json!({"spec": {"replicas": 2.0, "args": null}}), None),
        ];
        for (mut value, expected) in cases {
            let report = builtin(&mut value, &schema, &definitions);
            assert_eq!(report.mismatch.as_deref(), expected, "{value}");
        }
    }
}
