//! Protobuf to JSON.

use std::collections::HashMap;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use crate::known;
use crate::table::{self, Field, Kind, Message, Shape};
use crate::wire::{Raw, next, unzigzag, varint};
use crate::{DEPTH, Error};

/// What becomes of key material.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Texts and bytes below a field that Envoy's API marks as sensitive read `[redacted]`.
    Redacted,
    /// They are printed.
    Shown,
}

/// What stands for a secret.
const REDACTED: &str = "[redacted]";

/// Prints a message of that full name, with proto field names. Fields the schema does not know are left out.
pub fn decode(message: &str, bytes: &[u8], secrets: Secrets) -> Result<Value, Error> {
    let mut decoder = Decoder {
        secrets,
        hidden: 0,
        depth: 0,
        seen: HashMap::new(),
    };
    decoder
        .message(message, bytes)
        .map_err(|reason| Error::Decode(message.to_owned(), reason))
}

type Decoded<T> = Result<T, &'static str>;

const BROKEN: &str = "not a protobuf message";

struct Decoder {
    secrets: Secrets,
    /// How many fields around are secret.
    hidden: usize,
    depth: usize,
    seen: HashMap<String, Rc<Message>>,
}

impl Decoder {
    fn message(&mut self, name: &str, bytes: &[u8]) -> Decoded<Value> {
        if self.depth >= DEPTH {
            return Err("nested too deeply");
        }
        self.depth += 1;
        let decoded = match self.known(name, bytes) {
            Some(known) => known,
            None => self.fields(name, bytes).map(Value::Object),
        };
        self.depth -= 1;
        decoded
    }

    fn fields(&mut self, name: &str, mut bytes: &[u8]) -> Decoded<Map<String, Value>> {
        let message = match self.seen.get(name) {
            Some(found) => found.clone(),
            None => {
                let found = Rc::new(table::message(name).ok_or("a message that is not known")?);
                self.seen.insert(name.to_owned(), found.clone());
                found
            }
        };
        let mut members = Map::new();
        while !bytes.is_empty() {
            let (number, raw, rest) = next(bytes).ok_or(BROKEN)?;
            bytes = rest;
            let Some(field) = message.fields.iter().find(|field| field.number == number) else {
                continue;
            };
            let is_secret = field.secret && self.secrets == Secrets::Redacted;
            self.hidden += usize::from(is_secret);
            let added = self.add(&mut members, field, raw);
            self.hidden -= usize::from(is_secret);
            added?;
        }
        Ok(members)
    }

    fn add(&mut self, members: &mut Map<String, Value>, field: &Field, raw: Raw) -> Decoded<()> {
        match field.shape {
            Shape::Single => {
                let value = self.value(field.kind, raw)?;
                // A scalar outside a oneof that holds its default is as if it were not there.
                let is_default = match &value {
                    Value::Bool(flag) => !flag,
                    Value::Number(number) => number.as_f64() == Some(0.0),
                    Value::String(text) => {
                        text.is_empty()
                            || matches!(field.kind, Kind::Enum(list) if table::number_of(list, text) == Some(0))
                            || text == "0" && matches!(field.kind, Kind::Int64 | Kind::Uint64)
                    }
                    _ => false,
                };
                let is_scalar = !matches!(field.kind, Kind::Message(_));
                if !(is_scalar && is_default && field.choice.is_none()) {
                    members.insert(field.name.to_owned(), value);
                }
            }
            Shape::Repeated => {
                let mut more = self.repeated(field.kind, raw)?;
                let list = members
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.append(&mut more);
                }
            }
            Shape::Map(key_kind) => {
                let Raw::Bytes(entry) = raw else {
                    return Err(BROKEN);
                };
                let (key, value) = self.entry(key_kind, field.kind, entry)?;
                let object = members
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(object) = object {
                    object.insert(key, value);
                }
            }
        }
        Ok(())
    }

    /// One element, or several packed.
    fn repeated(&mut self, kind: Kind, raw: Raw) -> Decoded<Vec<Value>> {
        let Raw::Bytes(mut bytes) = raw else {
            return Ok(vec![self.value(kind, raw)?]);
        };
        let mut list = Vec::new();
        match kind {
            Kind::Text | Kind::Bytes | Kind::Message(_) => list.push(self.value(kind, raw)?),
            Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => {
                while let Some((chunk, rest)) = bytes.split_first_chunk() {
                    list.push(self.value(kind, Raw::Four(*chunk))?);
                    bytes = rest;
                }
            }
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => {
                while let Some((chunk, rest)) = bytes.split_first_chunk() {
                    list.push(self.value(kind, Raw::Eight(*chunk))?);
                    bytes = rest;
                }
            }
            _ => {
                while !bytes.is_empty() {
                    let (number, rest) = varint(bytes).ok_or(BROKEN)?;
                    list.push(self.value(kind, Raw::Varint(number))?);
                    bytes = rest;
                }
            }
        }
        Ok(list)
    }

    fn entry(&mut self, key_kind: Kind, kind: Kind, mut bytes: &[u8]) -> Decoded<(String, Value)> {
        let mut key = String::new();
        let mut value = None;
        while !bytes.is_empty() {
            let (number, raw, rest) = next(bytes).ok_or(BROKEN)?;
            bytes = rest;
            match number {
                1 => {
                    key = match scalar(key_kind, raw)? {
                        Value::String(text) => text,
                        other => other.to_string(),
                    }
                }
                2 => value = Some(self.value(kind, raw)?),
                _ => {}
            }
        }
        let value = match (value, kind) {
            (Some(value), _) => value,
            (None, Kind::Message(name)) => self.message(name, &[])?,
            (None, Kind::Text | Kind::Bytes) => Value::String(String::new()),
            (None, Kind::Bool) => Value::Bool(false),
            (None, _) => Value::from(0),
        };
        Ok((key, value))
    }

    fn value(&mut self, kind: Kind, raw: Raw) -> Decoded<Value> {
        match (kind, raw) {
            (Kind::Message(name), Raw::Bytes(bytes)) => self.message(name, bytes),
            (Kind::Text, _) if self.hidden > 0 => Ok(REDACTED.into()),
            (Kind::Bytes, _) if self.hidden > 0 => Ok(STANDARD.encode(REDACTED).into()),
            _ => scalar(kind, raw),
        }
    }

    fn known(&mut self, name: &str, bytes: &[u8]) -> Option<Decoded<Value>> {
        if let Some(kind) = known::wrapped(name) {
            return Some(self.wrapper(kind, bytes));
        }
        Some(match name {
            "google.protobuf.Any" => self.any(bytes),
            "google.protobuf.Duration" => {
                known::duration_text(bytes).map(Value::String).ok_or(BROKEN)
            }
            "google.protobuf.Timestamp" => known::timestamp_text(bytes)
                .map(Value::String)
                .ok_or(BROKEN),
            "google.protobuf.FieldMask" => {
                let names = fields_of(bytes, 1).map(|raw| match raw {
                    Raw::Bytes(text) => known::camel(&String::from_utf8_lossy(text)),
                    _ => String::new(),
                });
                Ok(names.collect::<Vec<_>>().join(",").into())
            }
            "google.protobuf.Empty" => Ok(Value::Object(Map::new())),
            "google.protobuf.Struct" => {
                let mut members = Map::new();
                for raw in fields_of(bytes, 1) {
                    let Raw::Bytes(entry) = raw else {
                        return Some(Err(BROKEN));
                    };
                    match self.entry(Kind::Text, Kind::Message("google.protobuf.Value"), entry) {
                        Ok((key, value)) => members.insert(key, value),
                        Err(error) => return Some(Err(error)),
                    };
                }
                Ok(Value::Object(members))
            }
            "google.protobuf.ListValue" => fields_of(bytes, 1)
                .map(|raw| self.value(Kind::Message("google.protobuf.Value"), raw))
                .collect::<Decoded<Vec<_>>>()
                .map(Value::Array),
            "google.protobuf.Value" => self.dynamic(bytes),
            _ => return None,
        })
    }

    fn wrapper(&mut self, kind: Kind, bytes: &[u8]) -> Decoded<Value> {
        match (fields_of(bytes, 1).last(), kind) {
            (Some(raw), _) => self.value(kind, raw),
            (None, Kind::Bool) => Ok(Value::Bool(false)),
            (None, Kind::Text | Kind::Bytes) => Ok(Value::String(String::new())),
            (None, Kind::Int64 | Kind::Uint64) => Ok("0".into()),
            (None, _) => Ok(Value::from(0)),
        }
    }

    fn any(&mut self, bytes: &[u8]) -> Decoded<Value> {
        let text = |raw: Option<Raw>| match raw {
            Some(Raw::Bytes(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        let url = text(fields_of(bytes, 1).last());
        let payload: &[u8] = match fields_of(bytes, 2).last() {
            Some(Raw::Bytes(payload)) => payload,
            _ => &[],
        };
        let name = url.rsplit('/').next().unwrap_or_default();
        let mut members = Map::new();
        members.insert("@type".to_owned(), url.as_str().into());
        if known::is_boxed(name) {
            members.insert("value".to_owned(), self.message(name, payload)?);
        } else if crate::knows(name) {
            if let Value::Object(more) = self.message(name, payload)? {
                members.extend(more);
            }
        } else if self.hidden > 0 {
            members.insert("value".to_owned(), REDACTED.into());
        } else {
            members.insert("value".to_owned(), STANDARD.encode(payload).into());
        }
        Ok(Value::Object(members))
    }

    fn dynamic(&mut self, mut bytes: &[u8]) -> Decoded<Value> {
        let mut value = Value::Null;
        while !bytes.is_empty() {
            let (number, raw, rest) = next(bytes).ok_or(BROKEN)?;
            bytes = rest;
            let kind = match number {
                2 => Kind::Double,
                3 => Kind::Text,
                4 => Kind::Bool,
                5 => Kind::Message("google.protobuf.Struct"),
                6 => Kind::Message("google.protobuf.ListValue"),
                _ => continue,
            };
            value = self.value(kind, raw)?;
        }
        Ok(value)
    }
}

fn fields_of(bytes: &[u8], wanted: u32) -> impl Iterator<Item = Raw<'_>> {
    let mut bytes = bytes;
    std::iter::from_fn(move || {
        loop {
            let (number, raw, rest) = next(bytes)?;
            bytes = rest;
            if number == wanted {
                return Some(raw);
            }
        }
    })
}

fn scalar(kind: Kind, raw: Raw) -> Decoded<Value> {
    Ok(match (kind, raw) {
        (Kind::Bool, Raw::Varint(number)) => Value::Bool(number != 0),
        (Kind::Int32, Raw::Varint(number)) => Value::from(number as i32),
        (Kind::Int64, Raw::Varint(number)) => (number as i64).to_string().into(),
        (Kind::Uint32, Raw::Varint(number)) => Value::from(number as u32),
        (Kind::Uint64, Raw::Varint(number)) => number.to_string().into(),
        (Kind::Sint32, Raw::Varint(number)) => Value::from(unzigzag(number) as i32),
        (Kind::Sint64, Raw::Varint(number)) => unzigzag(number).to_string().into(),
        (Kind::Fixed32, Raw::Four(bytes)) => Value::from(u32::from_le_bytes(bytes)),
        (Kind::Sfixed32, Raw::Four(bytes)) => Value::from(i32::from_le_bytes(bytes)),
        (Kind::Fixed64, Raw::Eight(bytes)) => u64::from_le_bytes(bytes).to_string().into(),
        (Kind::Sfixed64, Raw::Eight(bytes)) => i64::from_le_bytes(bytes).to_string().into(),
        (Kind::Float, Raw::Four(bytes)) => float(f64::from(f32::from_le_bytes(bytes))),
        (Kind::Double, Raw::Eight(bytes)) => float(f64::from_le_bytes(bytes)),
        (Kind::Text, Raw::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned().into(),
        (Kind::Bytes, Raw::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Kind::Enum(list), Raw::Varint(number)) => match table::name_of(list, number as i32) {
            Some(name) => name.into(),
            None => Value::from(number as i32),
        },
        _ => return Err(BROKEN),
    })
}

fn float(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return Value::from(number as i64);
    }
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        None if number.is_nan() => "NaN".into(),
        None if number > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}
