//! Reading Kubernetes' protobuf bodies, which kubectl's typed commands (`create namespace`, `create token` …) send.
//!
//! The wire says numbers, objects here have names: `protobuf/fields.txt` holds the published numbers. Two things it does not
//! hold are found otherwise: a message that JSON inlines is one that the kind's schema does not know by name, and a zero that
//! matters (a pointer in Go) is one of the fields listed below.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::kinds::builtin;
use crate::schema::{Additional, Schema};

const MAGIC: &[u8] = b"k8s\0";
/// Deeper than any kind, so that a hostile body cannot exhaust the stack.
const DEPTH: usize = 32;

/// Fields whose zero is a value. Go writes zeros of all others although they are absent.
const MEANT_ZERO: [&str; 33] = [
    "replicas",
    "terminationGracePeriodSeconds",
    "backoffLimit",
    "activeDeadlineSeconds",
    "parallelism",
    "completions",
    "revisionHistoryLimit",
    "gracePeriodSeconds",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "partition",
    "ttlSecondsAfterFinished",
    "timeoutSeconds",
    "expirationSeconds",
    "tolerationSeconds",
    "intVal",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "optional",
    "allowPrivilegeEscalation",
    "runAsNonRoot",
    "readOnlyRootFilesystem",
    "privileged",
    "immutable",
    "suspend",
    "controller",
    "blockOwnerDeletion",
    "allocateLoadBalancerNodePorts",
    "ready",
    "serving",
    "terminating",
    "orphanDependents",
];

struct Field {
    name: &'static str,
    kind: &'static str,
}

type Message = HashMap<u64, Field>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let lines = include_str!("protobuf/fields.txt")
        .lines()
        .filter(|l| !l.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' ').or(Some((line, ""))))
        .map(|(name, fields)| (name, message(fields)))
        .collect()
});

fn message(fields: &'static str) -> Message {
    let parse = |field: &'static str| {
        let (name, rest) = field.split_once('=')?;
        let (number, kind) = rest.split_once(':')?;
        Some((number.parse().ok()?, Field { name, kind }))
    };
    fields.split(' ').filter_map(parse).collect()
}

/// Reads a body; the error says what is not understood.
pub fn decode(body: &[u8]) -> Result<Value, String> {
    let body = body
        .strip_prefix(MAGIC)
        .ok_or("it does not begin with the Kubernetes protobuf prefix")?;
    let (mut api_version, mut kind, mut raw, mut content_type) =
        (String::new(), String::new(), &[][..], String::new());
    each(body, |number, value| {
        match (number, value) {
            (1, Wire::Bytes(type_meta)) => each(type_meta, |number, value| {
                if let Wire::Bytes(bytes) = value {
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    if number == 1 {
                        api_version = text
                    } else {
                        kind = text
                    }
                }
                Ok(())
            })?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (4, Wire::Bytes(bytes)) => content_type = String::from_utf8_lossy(bytes).into_owned(),
            _ => {}
        }
        Ok(())
    })?;
    if content_type == "application/json" {
        return serde_json::from_slice(raw).map_err(|e| e.to_string());
    }
    let name = message_name(&api_version, &kind);
    let name = MESSAGES.get_key_value(name.as_str()).map(|(n, _)| *n);
    let name = name.ok_or_else(|| {
        format!("{kind} in {api_version} is not read from protobuf by this server")
    })?;
    let type_name = format!("io.k8s.api.{name}");
    let schema = crate::kinds::schema_of(&type_name);
    let mut map = object(name, raw, Some(&schema), 0)?;
    map.insert("apiVersion".to_owned(), json!(api_version));
    map.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(map))
}

fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = if group.is_empty() { "core" } else { group };
    format!(
        "{}.{version}.{kind}",
        group.split('.').next().unwrap_or_default()
    )
}

fn object(
    name: &str,
    bytes: &[u8],
    schema: Option<&Schema>,
    depth: usize,
) -> Result<Map<String, Value>, String> {
    if depth > DEPTH {
        return Err("the message is nested too deeply".to_owned());
    }
    let fields = MESSAGES
        .get(name)
        .ok_or_else(|| format!("message {name} is not known"))?;
    let schema = schema
        .map(|s| builtin().definitions.resolve(s))
        .filter(|s| !s.properties.is_empty());
    let mut map = Map::new();
    each(bytes, |number, wire| {
        // A field of a newer version: dropped, as Go drops it.
        let Some(field) = fields.get(&number) else {
            return Ok(());
        };
        let property = schema.and_then(|s| s.properties.get(field.name));
        let inlined = schema.is_some() && property.is_none();
        if let Some(element) = field.kind.strip_prefix('*') {
            let item = property.and_then(|p| p.items.as_deref());
            let value = value(element, &wire, item, depth)?;
            if let Value::Array(items) = map.entry(field.name).or_insert_with(|| json!([])) {
                items.extend(value);
            }
        } else if let Some(element) = field.kind.strip_prefix('%') {
            let inner = property.and_then(|p| match &p.additional {
                Additional::Schema(inner) => Some(&**inner),
                _ => None,
            });
            if let (Value::Object(entries), Some((key, value))) = (
                map.entry(field.name).or_insert_with(|| json!({})),
                entry(element, &wire, inner, depth)?,
            ) {
                entries.insert(key, value);
            }
        } else if inlined && MESSAGES.contains_key(field.kind) {
            if let Wire::Bytes(bytes) = wire {
                map.extend(object(field.kind, bytes, schema, depth + 1)?);
            }
        } else if let Some(value) = value(field.kind, &wire, property, depth)?
            && (MEANT_ZERO.contains(&field.name) || !is_zero(&value))
        {
            map.insert(field.name.to_owned(), value);
        }
        Ok(())
    })?;
    Ok(map)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(n) => n.as_i64() == Some(0),
        Value::Bool(b) => !b,
        _ => false,
    }
}

fn value(
    kind: &str,
    wire: &Wire<'_>,
    schema: Option<&Schema>,
    depth: usize,
) -> Result<Option<Value>, String> {
    Ok(match (kind, wire) {
        ("s", Wire::Bytes(bytes)) => Some(json!(String::from_utf8_lossy(bytes))),
        ("y", Wire::Bytes(bytes)) => Some(json!(
            base64::engine::general_purpose::STANDARD.encode(bytes)
        )),
        ("i", Wire::Number(n)) => Some(json!(n.cast_signed())),
        ("b", Wire::Number(n)) => Some(json!(*n != 0)),
        ("d", Wire::Fixed(bits)) => Some(json!(f64::from_bits(*bits))),
        ("meta.v1.Time", Wire::Bytes(bytes)) => time(bytes, false)?,
        ("meta.v1.MicroTime", Wire::Bytes(bytes)) => time(bytes, true)?,
        ("api.resource.Quantity", Wire::Bytes(bytes)) => Some(text_field(bytes, 1)?),
        ("util.intstr.IntOrString", Wire::Bytes(bytes)) => Some(int_or_string(bytes)?),
        ("pkg.runtime.RawExtension" | "meta.v1.FieldsV1", Wire::Bytes(bytes)) => {
            let raw = text_field(bytes, 1)?;
            raw.as_str().and_then(|t| serde_json::from_str(t).ok())
        }
        (name, Wire::Bytes(bytes)) => Some(Value::Object(object(name, bytes, schema, depth + 1)?)),
        (name, _) => return Err(format!("a field of type {name} has another wire type")),
    })
}

fn entry(
    kind: &str,
    wire: &Wire<'_>,
    schema: Option<&Schema>,
    depth: usize,
) -> Result<Option<(String, Value)>, String> {
    let Wire::Bytes(bytes) = wire else {
        return Err("a map entry is not a message".to_owned());
    };
    let (mut key, mut content) = (String::new(), None);
    each(bytes, |number, wire| {
        match (number, &wire) {
            (1, Wire::Bytes(bytes)) => key = String::from_utf8_lossy(bytes).into_owned(),
            (2, _) => content = value(kind, &wire, schema, depth)?,
            _ => {}
        }
        Ok(())
    })?;
    let empty = match kind {
        "s" | "y" => Some(json!("")),
        _ => None,
    };
    Ok(content.or(empty).map(|content| (key, content)))
}

fn text_field(bytes: &[u8], wanted: u64) -> Result<Value, String> {
    let mut text = String::new();
    each(bytes, |number, wire| {
        if let (true, Wire::Bytes(bytes)) = (number == wanted, wire) {
            text = String::from_utf8_lossy(bytes).into_owned();
        }
        Ok(())
    })?;
    Ok(json!(text))
}

/// An empty message is the zero time, which JSON writes as null.
fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, String> {
    let (mut seconds, mut nanos) = (0, 0);
    each(bytes, |number, wire| {
        if let Wire::Number(n) = wire {
            if number == 1 {
                seconds = n.cast_signed()
            } else {
                nanos = n.cast_signed()
            }
        }
        Ok(())
    })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let nanos = i32::try_from(nanos).map_err(|e| e.to_string())?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    let text = if micro {
        time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    } else {
        crate::object::format_time(time)
    };
    Ok(Some(json!(text)))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    each(bytes, |field, wire| {
        match (field, wire) {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = String::from_utf8_lossy(bytes).into_owned(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(if is_text { json!(text) } else { json!(number) })
}

// === the wire format ===

enum Wire<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Calls `take` with each field of a message.
fn each<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u64, Wire<'a>) -> Result<(), String>,
) -> Result<(), String> {
    const SHORT: &str = "the message ends too early";
    while !bytes.is_empty() {
        let tag = varint(&mut bytes).ok_or(SHORT)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes).ok_or(SHORT)?),
            1 => Wire::Fixed(u64::from_le_bytes(
                *split(&mut bytes, 8)
                    .and_then(|b| b.first_chunk())
                    .ok_or(SHORT)?,
            )),
            2 => {
                let length = varint(&mut bytes)
                    .and_then(|n| usize::try_from(n).ok())
                    .ok_or(SHORT)?;
                Wire::Bytes(split(&mut bytes, length).ok_or(SHORT)?)
            }
            5 => Wire::Fixed(u64::from(u32::from_le_bytes(
                *split(&mut bytes, 4)
                    .and_then(|b| b.first_chunk())
                    .ok_or(SHORT)?,
            ))),
            other => return Err(format!("wire type {other} is not known")),
        };
        take(tag >> 3, wire)?;
    }
    Ok(())
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn a_namespace_reads_without_the_zeros_that_go_writes() {
        // metadata{name "x", generateName "", generation 0, creationTimestamp {}, labels {a: b}}, spec {}, status {}
        let labels = field(11, &[field(1, b"a"), field(2, b"b")].concat());
        let metadata = [
            field(1, b"x"),
            field(2, b""),
            vec![7 << 3, 0],
            field(8, b""),
            labels,
        ]
        .concat();
        let raw = [field(1, &metadata), field(2, b""), field(3, b"")].concat();
        let value = decode(&envelope("v1", "Namespace", &raw)).unwrap();
        assert_eq!(
            value,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {}, "status": {}})
        );
    }

    #[test]
    fn inlined_messages_quantities_and_ports_become_their_json() {
        // Service spec.ports[0]{port 80, targetPort{type string, "http"}}
        let target = [vec![8, 1], vec![16, 0], field(3, b"http")].concat();
        let port = [vec![3 << 3, 80], field(4, &target)].concat();
        let value = decode(&envelope("v1", "Service", &field(2, &field(1, &port)))).unwrap();
        assert_eq!(
            value["spec"]["ports"],
            json!([{"port": 80, "targetPort": "http"}])
        );
        // Pod spec.volumes[0]{name v, volumeSource{emptyDir{}}}: the source is inlined.
        let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
        let value = decode(&envelope("v1", "Pod", &field(2, &field(1, &volume)))).unwrap();
        assert_eq!(
            value["spec"]["volumes"],
            json!([{"name": "v", "emptyDir": {}}])
        );
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for body in [
            &b""[..],
            b"k8s\0",
            b"k8s\0\x0a\xff",
            b"k8s\0\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
        ] {
            assert!(decode(body).is_err());
        }
    }
}
