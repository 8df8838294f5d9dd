//! JSON to protobuf.

use std::collections::HashMap;
use std::fmt::Display;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::known::{self, camel};
use crate::table::{self, Field, Kind, Message, Shape};
use crate::wire::{put_bytes, put_tag, put_varint, zigzag};
use crate::{DEPTH, Error};

/// Encodes JSON as the message of that full name.
pub fn encode(message: &str, json: &Value) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder {
        path: String::new(),
        depth: 0,
        seen: HashMap::new(),
    };
    encoder.message(message, json)
}

struct Encoder {
    path: String,
    depth: usize,
    seen: HashMap<String, Rc<Message>>,
}

impl Encoder {
    fn fail<T>(&self, reason: impl Display) -> Result<T, Error> {
        let path = match self.path.as_str() {
            "" => "(root)".to_owned(),
            path => path.to_owned(),
        };
        Err(Error::Field {
            path,
            reason: reason.to_string(),
        })
    }

    /// Runs with something added to the path.
    fn within<T>(
        &mut self,
        step: impl Display,
        run: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let length = self.path.len();
        let step = step.to_string();
        if length > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(&step);
        let done = run(self);
        self.path.truncate(length);
        done
    }

    fn message(&mut self, name: &str, json: &Value) -> Result<Vec<u8>, Error> {
        if self.depth >= DEPTH {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let encoded = match self.known(name, json) {
            Some(known) => known,
            None => self.fields(name, json, ""),
        };
        self.depth -= 1;
        encoded
    }

    fn fields(&mut self, name: &str, json: &Value, but: &str) -> Result<Vec<u8>, Error> {
        let Value::Object(members) = json else {
            return self.fail(format_args!("an object is needed ({name})"));
        };
        let Some(message) = self.lookup(name) else {
            return self.fail(format_args!("message {name} is not known"));
        };
        let mut out = Vec::new();
        let mut chosen: Vec<(&str, &str)> = Vec::new();
        for (key, value) in members {
            if value.is_null() || key == but {
                continue;
            }
            let found = message
                .fields
                .iter()
                .find(|field| field.name == key || camel(field.name) == *key);
            let Some(field) = found else {
                return self.within(key, |this| {
                    this.fail(format_args!("{name} has no such field"))
                });
            };
            if let Some(choice) = field.choice {
                if let Some((_, other)) = chosen.iter().find(|(known, _)| *known == choice) {
                    let other = (*other).to_owned();
                    return self.within(key, |this| {
                        this.fail(format_args!(
                            "only one of {other} and {} may be set",
                            field.name
                        ))
                    });
                }
                chosen.push((choice, field.name));
            }
            self.within(key, |this| this.field(field, value, &mut out))?;
        }
        Ok(out)
    }

    fn lookup(&mut self, name: &str) -> Option<Rc<Message>> {
        if let Some(found) = self.seen.get(name) {
            return Some(found.clone());
        }
        let message = Rc::new(table::message(name)?);
        self.seen.insert(name.to_owned(), message.clone());
        Some(message)
    }

    fn field(&mut self, field: &Field, json: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        match field.shape {
            Shape::Single => self.value(field.number, field.kind, json, out),
            Shape::Repeated => {
                let Value::Array(list) = json else {
                    return self.fail("a list is needed");
                };
                for (index, item) in list.iter().enumerate() {
                    self.within(format_args!("[{index}]"), |this| {
                        this.value(field.number, field.kind, item, out)
                    })?;
                }
                Ok(())
            }
            Shape::Map(key_kind) => {
                let Value::Object(members) = json else {
                    return self.fail("an object is needed");
                };
                for (key, item) in members {
                    self.within(format_args!("[{key:?}]"), |this| {
                        let mut entry = Vec::new();
                        this.value(1, key_kind, &Value::String(key.clone()), &mut entry)?;
                        this.value(2, field.kind, item, &mut entry)?;
                        put_bytes(out, field.number, &entry);
                        Ok(())
                    })?;
                }
                Ok(())
            }
        }
    }

    fn value(
        &mut self,
        number: u32,
        kind: Kind,
        json: &Value,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let varint = |out: &mut Vec<u8>, value: u64| {
            put_tag(out, number, 0);
            put_varint(out, value);
        };
        match kind {
            Kind::Bool => match json {
                Value::Bool(flag) => varint(out, u64::from(*flag)),
                Value::String(text) if text == "true" || text == "false" => {
                    varint(out, u64::from(text == "true"))
                }
                _ => return self.fail("true or false is needed"),
            },
            Kind::Int32 => varint(out, i64::from(self.integer::<i32>(json)?) as u64),
            Kind::Int64 => varint(out, self.integer::<i64>(json)? as u64),
            Kind::Uint32 => varint(out, u64::from(self.integer::<u32>(json)?)),
            Kind::Uint64 => varint(out, self.integer::<u64>(json)?),
            Kind::Sint32 => varint(out, zigzag(i64::from(self.integer::<i32>(json)?))),
            Kind::Sint64 => varint(out, zigzag(self.integer::<i64>(json)?)),
            Kind::Fixed32 => four(out, number, self.integer::<u32>(json)?.to_le_bytes()),
            Kind::Sfixed32 => four(out, number, self.integer::<i32>(json)?.to_le_bytes()),
            Kind::Fixed64 => eight(out, number, self.integer::<u64>(json)?.to_le_bytes()),
            Kind::Sfixed64 => eight(out, number, self.integer::<i64>(json)?.to_le_bytes()),
            Kind::Float => four(out, number, (self.float(json)? as f32).to_le_bytes()),
            Kind::Double => eight(out, number, self.float(json)?.to_le_bytes()),
            Kind::Text => match json {
                Value::String(text) => put_bytes(out, number, text.as_bytes()),
                _ => return self.fail("a string is needed"),
            },
            Kind::Bytes => put_bytes(out, number, &self.bytes(json)?),
            Kind::Enum(list) => varint(out, i64::from(self.member(list, json)?) as u64),
            Kind::Message(name) => {
                let bytes = self.message(name, json)?;
                put_bytes(out, number, &bytes);
            }
        }
        Ok(())
    }

    fn integer<T: TryFrom<i128>>(&self, json: &Value) -> Result<T, Error> {
        let number = match json {
            Value::Number(number) => {
                let whole = number
                    .as_i64()
                    .map(i128::from)
                    .or(number.as_u64().map(i128::from));
                // 1e3 and 5.0 are integers to protobuf's JSON.
                let rounded = number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0 && float.abs() < 9e15);
                whole.or(rounded.map(|float| float as i128))
            }
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => self.fail("an integer within its range is needed"),
        }
    }

    fn float(&self, json: &Value) -> Result<f64, Error> {
        let number = match json {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                text => text.parse().ok(),
            },
            _ => None,
        };
        number.map_or_else(|| self.fail("a number is needed"), Ok)
    }

    fn bytes(&self, json: &Value) -> Result<Vec<u8>, Error> {
        let Value::String(text) = json else {
            return self.fail("base64 is needed");
        };
        let bare: String = (text.chars())
            .filter(|letter| !matches!(letter, '=' | '\n'))
            .collect();
        STANDARD_NO_PAD
            .decode(&bare)
            .or_else(|_| URL_SAFE_NO_PAD.decode(&bare))
            .or_else(|_| self.fail("not base64"))
    }

    fn member(&self, list: &str, json: &Value) -> Result<i32, Error> {
        if list == "google.protobuf.NullValue" {
            return Ok(0);
        }
        let number = match json {
            Value::String(name) => table::number_of(list, name),
            Value::Number(number) => number
                .as_i64()
                .and_then(|number| i32::try_from(number).ok()),
            _ => None,
        };
        match number {
            Some(number) => Ok(number),
            None => self.fail(format_args!("{json} is none of {list}")),
        }
    }

    /// The messages with a JSON form of their own.
    fn known(&mut self, name: &str, json: &Value) -> Option<Result<Vec<u8>, Error>> {
        if let Some(kind) = known::wrapped(name) {
            let mut out = Vec::new();
            return Some(self.value(1, kind, json, &mut out).map(|()| out));
        }
        Some(match name {
            "google.protobuf.Any" => self.any(json),
            "google.protobuf.Duration" => match json.as_str().and_then(known::duration) {
                Some(bytes) => Ok(bytes),
                None => self.fail("a duration such as 1.5s is needed"),
            },
            "google.protobuf.Timestamp" => match json.as_str().and_then(known::timestamp) {
                Some(bytes) => Ok(bytes),
                None => self.fail("a time such as 2026-01-02T03:04:05Z is needed"),
            },
            "google.protobuf.FieldMask" => match json.as_str() {
                Some(text) => {
                    let mut out = Vec::new();
                    for part in text.split(',').filter(|part| !part.is_empty()) {
                        put_bytes(&mut out, 1, known::snake(part).as_bytes());
                    }
                    Ok(out)
                }
                None => self.fail("field names, separated by commas, are needed"),
            },
            "google.protobuf.Empty" => match json {
                Value::Object(_) => Ok(Vec::new()),
                _ => self.fail("an object is needed"),
            },
            "google.protobuf.Struct" => self.structure(json),
            "google.protobuf.ListValue" => self.list(json),
            "google.protobuf.Value" => self.dynamic(json),
            _ => return None,
        })
    }

    fn any(&mut self, json: &Value) -> Result<Vec<u8>, Error> {
        let Some(url) = json.get("@type").and_then(Value::as_str) else {
            return self.fail("\"@type\" is needed");
        };
        let name = url.rsplit('/').next().unwrap_or_default();
        let payload = if known::is_boxed(name) {
            let inner = json.get("value").cloned().unwrap_or_default();
            self.within("value", |this| this.message(name, &inner))?
        } else if name == "google.protobuf.Empty" {
            Vec::new()
        } else {
            self.fields(name, json, "@type")?
        };
        let mut out = Vec::new();
        put_bytes(&mut out, 1, url.as_bytes());
        put_bytes(&mut out, 2, &payload);
        Ok(out)
    }

    fn structure(&mut self, json: &Value) -> Result<Vec<u8>, Error> {
        let Value::Object(members) = json else {
            return self.fail("an object is needed");
        };
        let mut out = Vec::new();
        for (key, value) in members {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            let value = self.within(key, |this| this.nested(value))?;
            put_bytes(&mut entry, 2, &value);
            put_bytes(&mut out, 1, &entry);
        }
        Ok(out)
    }

    fn list(&mut self, json: &Value) -> Result<Vec<u8>, Error> {
        let Value::Array(items) = json else {
            return self.fail("a list is needed");
        };
        let mut out = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let value = self.within(format_args!("[{index}]"), |this| this.nested(item))?;
            put_bytes(&mut out, 1, &value);
        }
        Ok(out)
    }

    fn nested(&mut self, json: &Value) -> Result<Vec<u8>, Error> {
        self.message("google.protobuf.Value", json)
    }

    fn dynamic(&mut self, json: &Value) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        match json {
            Value::Null => {
                put_tag(&mut out, 1, 0);
                put_varint(&mut out, 0);
            }
            Value::Number(_) => eight(&mut out, 2, self.float(json)?.to_le_bytes()),
            Value::String(text) => put_bytes(&mut out, 3, text.as_bytes()),
            Value::Bool(flag) => {
                put_tag(&mut out, 4, 0);
                put_varint(&mut out, u64::from(*flag));
            }
            Value::Object(_) => {
                let inner = self.structure(json)?;
                put_bytes(&mut out, 5, &inner);
            }
            Value::Array(_) => {
                let inner = self.list(json)?;
                put_bytes(&mut out, 6, &inner);
            }
        }
        Ok(out)
    }
}

fn four(out: &mut Vec<u8>, number: u32, bytes: [u8; 4]) {
    put_tag(out, number, 5);
    out.extend(bytes);
}

fn eight(out: &mut Vec<u8>, number: u32, bytes: [u8; 8]) {
    put_tag(out, number, 1);
    out.extend(bytes);
}
