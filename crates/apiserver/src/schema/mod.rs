//! Schemas of kinds, built in or custom, in one shape: compiled from OpenAPI v3 JSON, walked by [`decode`] (types,
//! unknown fields, pruning), [`fill`] (defaults) and [`check`] (validation).

pub mod check;
pub mod decode;
pub mod fill;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

/// JSON types as OpenAPI names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// Not said: anything.
    #[default]
    Any,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// true or false.
    Boolean,
}

impl Type {
    fn parse(text: &str) -> Self {
        match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    /// The OpenAPI name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// The type name of a value, as validation messages print it.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What an object may hold beside its properties.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// Nothing (structural schemas: unknown fields are pruned).
    #[default]
    None,
    /// Anything.
    Any,
    /// Values of one schema: a map.
    Schema(Box<Schema>),
}

/// How a list is merged and compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// As one value.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects identified by these fields.
    Map(Vec<String>),
}

/// Value constraints.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// `minimum` and whether it is exclusive.
    pub minimum: Option<(f64, bool)>,
    /// `maximum` and whether it is exclusive.
    pub maximum: Option<(f64, bool)>,
    /// `multipleOf`.
    pub multiple_of: Option<f64>,
    /// `minLength`.
    pub min_length: Option<usize>,
    /// `maxLength`.
    pub max_length: Option<usize>,
    /// `pattern`, source text and compiled.
    pub pattern: Option<(String, Regex)>,
    /// `minItems`.
    pub min_items: Option<usize>,
    /// `maxItems`.
    pub max_items: Option<usize>,
    /// `uniqueItems`.
    pub unique_items: bool,
    /// `minProperties`.
    pub min_properties: Option<usize>,
    /// `maxProperties`.
    pub max_properties: Option<usize>,
}

/// A compiled schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// JSON type.
    pub kind: Type,
    /// `format`.
    pub format: String,
    /// Fields.
    pub properties: BTreeMap<String, Schema>,
    /// Beyond the fields.
    pub additional: Additional,
    /// Elements of an array.
    pub items: Option<Box<Schema>>,
    /// Name of a type in [`Definitions`] that says the rest.
    pub reference: Option<Arc<str>>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// `null` is a value.
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `default`.
    pub default: Option<Value>,
    /// `enum`.
    pub enumeration: Vec<Value>,
    /// Value constraints.
    pub limits: Limits,
    /// `allOf`.
    pub all_of: Vec<Schema>,
    /// `anyOf`.
    pub any_of: Vec<Schema>,
    /// `oneOf`.
    pub one_of: Vec<Schema>,
    /// `not`.
    pub not: Option<Box<Schema>>,
    /// `x-kubernetes-list-type`.
    pub list: ListKind,
    /// Key of strategic merge patches for this list.
    pub merge_key: Option<&'static str>,
}

/// Named types that schemas refer to.
#[derive(Debug, Default)]
pub struct Definitions {
    types: HashMap<Arc<str>, Schema>,
}

impl Definitions {
    /// Compiles `components/schemas` of the built-in kinds.
    pub fn compile(documents: &serde_json::Map<String, Value>) -> Self {
        let types = documents
            .iter()
            .map(|(name, document)| (Arc::from(name.as_str()), compile_builtin(name, document)))
            .collect();
        Self { types }
    }

    /// Follows a reference; a schema without one is its own.
    pub fn resolve<'a>(&'a self, schema: &'a Schema) -> &'a Schema {
        match &schema.reference {
            Some(name) => self.types.get(name).unwrap_or(schema),
            None => schema,
        }
    }

    /// A named type.
    #[cfg(test)]
    pub fn get(&self, name: &str) -> Option<&Schema> {
        self.types.get(name)
    }
}

/// Compiles a schema document; an unreadable `pattern` is an error naming it.
pub fn compile(document: &Value) -> Result<Schema, String> {
    let Some(fields) = document.as_object() else {
        return Ok(Schema {
            preserve_unknown: true,
            ..Schema::default()
        });
    };
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let flag = |key: &str| fields.get(key).and_then(Value::as_bool).unwrap_or(false);
    let many = |key: &str| -> Result<Vec<Schema>, String> {
        fields
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(compile)
            .collect()
    };
    let mut schema = Schema {
        kind: Type::parse(text("type")),
        format: text("format").to_owned(),
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        default: fields.get("default").filter(|d| !d.is_null()).cloned(),
        enumeration: fields
            .get("enum")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        required: strings(fields.get("required")),
        limits: limits(fields)?,
        all_of: many("allOf")?,
        any_of: many("anyOf")?,
        one_of: many("oneOf")?,
        list: list_kind(fields),
        ..Schema::default()
    };
    let reference = text("$ref").rsplit('/').next().unwrap_or_default();
    if !reference.is_empty() {
        schema.reference = Some(Arc::from(reference));
    }
    for (name, property) in fields
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        schema.properties.insert(name.clone(), compile(property)?);
    }
    schema.additional = match fields.get("additionalProperties") {
        None | Some(Value::Bool(false)) => Additional::None,
        Some(Value::Bool(true)) => Additional::Any,
        Some(other) => Additional::Schema(Box::new(compile(other)?)),
    };
    if let Some(items) = fields.get("items") {
        schema.items = Some(Box::new(compile(items)?));
    }
    if let Some(not) = fields.get("not") {
        schema.not = Some(Box::new(compile(not)?));
    }
    Ok(schema)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn limits(fields: &serde_json::Map<String, Value>) -> Result<Limits, String> {
    let number = |key: &str| fields.get(key).and_then(Value::as_f64);
    let count = |key: &str| {
        fields
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
    };
    let flag = |key: &str| fields.get(key).and_then(Value::as_bool).unwrap_or(false);
    let pattern = match fields.get("pattern").and_then(Value::as_str) {
        None => None,
        Some(text) => Some((
            text.to_owned(),
            Regex::new(text).map_err(|e| format!("pattern {text:?}: {e}"))?,
        )),
    };
    Ok(Limits {
        minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
        maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        pattern,
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
    })
}

fn list_kind(fields: &serde_json::Map<String, Value>) -> ListKind {
    match fields.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(strings(fields.get("x-kubernetes-list-map-keys"))),
        _ => ListKind::Atomic,
    }
}

// === built-in types ===

/// Types that hold any JSON although their published schema says `object`.
const FREE_FORM: [&str; 6] = [
    "JSON",
    "JSONSchemaPropsOrArray",
    "JSONSchemaPropsOrBool",
    "JSONSchemaPropsOrStringArray",
    "RawExtension",
    "FieldsV1",
];

fn compile_builtin(name: &str, document: &Value) -> Schema {
    let short = name.rsplit('.').next().unwrap_or_default();
    if FREE_FORM.contains(&short) {
        return Schema {
            preserve_unknown: true,
            ..Schema::default()
        };
    }
    // The published patterns of built-in types compile; a type that did not would accept anything.
    let mut schema = compile(document).unwrap_or_default();
    soften(&mut schema);
    schema
}

/// Built-in decoding knows no required fields, treats `null` as absent, and reads `allOf: [{$ref}]` as the reference itself.
fn soften(schema: &mut Schema) {
    if schema.reference.is_none() {
        schema.reference = schema.all_of.iter().find_map(|s| s.reference.clone());
    }
    schema.all_of.clear();
    schema.required.clear();
    let is_leaf_object = schema.kind == Type::Object && schema.properties.is_empty();
    if is_leaf_object && matches!(schema.additional, Additional::None) && schema.reference.is_none()
    {
        schema.preserve_unknown = true;
    }
    for (field, property) in &mut schema.properties {
        soften(property);
        if let Some(items) = &property.items
            && let Some(kind) = &items.reference
        {
            let kind = kind.rsplit('.').next().unwrap_or_default();
            property.merge_key = merge_key(kind, field);
        }
    }
    if let Additional::Schema(inner) = &mut schema.additional {
        soften(inner);
    }
    if let Some(items) = &mut schema.items {
        soften(items);
    }
}

/// `patchMergeKey` of the lists that have `patchStrategy: merge`, by element type and field
/// (the published schemas that we compile from do not carry it).
fn merge_key(element: &str, field: &str) -> Option<&'static str> {
    Some(match (element, field) {
        (
            "Container" | "EphemeralContainer" | "Volume" | "EnvVar" | "PodSchedulingGate"
            | "PodResourceClaim",
            _,
        ) => "name",
        ("MutatingWebhook" | "ValidatingWebhook" | "Validation" | "MatchCondition", _) => "name",
        ("LocalObjectReference", "imagePullSecrets") | ("ObjectReference", "secrets") => "name",
        ("VolumeMount", "volumeMounts") => "mountPath",
        ("VolumeDevice", "volumeDevices") => "devicePath",
        ("ContainerPort", "ports") => "containerPort",
        ("ServicePort", "ports") => "port",
        ("HostAlias", "hostAliases") | ("PodIP", "podIPs") | ("HostIP", "hostIPs") => "ip",
        ("TopologySpreadConstraint", _) => "topologyKey",
        ("OwnerReference", _) => "uid",
        ("NodeAddress", "addresses") => "type",
        (_, "conditions") => "type",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unreadable_pattern_is_an_error_that_quotes_it() {
        let error = compile(
            &json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
        )
        .unwrap_err();
        assert!(error.contains("pattern \"(\""), "{error}");
    }

    #[test]
    fn references_are_followed_through_all_of() {
        let documents = json!({
            "x.Outer": {"type": "object", "properties": {"inner": {"description": "d", "allOf": [{"$ref": "#/components/schemas/x.Inner"}]}}},
            "x.Inner": {"type": "object", "properties": {"n": {"type": "integer"}}},
        });
        let definitions = Definitions::compile(documents.as_object().unwrap());
        let outer = definitions.get("x.Outer").unwrap();
        let inner = definitions.resolve(outer.properties.get("inner").unwrap());
        assert!(inner.properties.contains_key("n"));
    }
}
