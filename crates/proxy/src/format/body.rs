//! Bodies of local replies made from format strings.

use bytes::Bytes;
use http::header::HeaderValue;

use super::{Command, Facts, Missing, Template, Value};

/// How a body is made.
#[derive(Debug, Clone)]
pub struct Body {
    /// Its content.
    pub content: Content,
    /// Its type.
    pub content_type: HeaderValue,
    /// What stands for absent values.
    pub missing: Missing,
}

/// What a body, or a line of a log, is made of.
#[derive(Debug, Clone)]
pub enum Content {
    /// Text.
    Text(Template),
    /// JSON.
    Json(Json),
}

/// JSON with format strings in the places of its strings.
#[derive(Debug, Clone)]
pub enum Json {
    /// As it stands: numbers, booleans, null.
    Fixed(serde_json::Value),
    /// A string; the value of a sole command keeps its type.
    Text(Template),
    /// A list.
    List(Vec<Json>),
    /// An object, in the order of its keys.
    Object(Vec<(String, Json)>),
}

// === impl Body, Content ===

impl Body {
    /// The body.
    pub fn make(&self, facts: &dyn Facts) -> Bytes {
        let mut out = String::new();
        self.content.write(facts, self.missing, &mut out);
        out.into()
    }
}

impl Content {
    /// Appends it; JSON ends with a line feed, as Envoy's does.
    pub fn write(&self, facts: &dyn Facts, missing: Missing, out: &mut String) {
        match self {
            Content::Text(template) => template.write(facts, missing, out),
            Content::Json(json) => {
                json.write(facts, missing, out);
                out.push('\n');
            }
        }
    }
}

// === impl Json ===

impl Json {
    /// Appends it.
    pub fn write(&self, facts: &dyn Facts, missing: Missing, out: &mut String) {
        match self {
            Json::Fixed(value) => out.push_str(&value.to_string()),
            Json::Text(template) => match template.single() {
                Some(command) => single(command, facts, missing, out),
                None => quote(&template.format(facts, missing), out),
            },
            Json::List(list) => {
                out.push('[');
                for (index, item) in list.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(facts, missing, out);
                }
                out.push(']');
            }
            Json::Object(fields) => {
                out.push('{');
                let mut is_first = true;
                for (key, value) in fields {
                    if missing == Missing::Empty && value.is_absent(facts) {
                        continue;
                    }
                    if !is_first {
                        out.push(',');
                    }
                    is_first = false;
                    quote(key, out);
                    out.push(':');
                    value.write(facts, missing, out);
                }
                out.push('}');
            }
        }
    }

    /// A sole command without a value: its key is left out where empty values are.
    fn is_absent(&self, facts: &dyn Facts) -> bool {
        match self {
            Json::Text(template) => template
                .single()
                .is_some_and(|command| command.value(facts) == Value::Absent),
            _ => false,
        }
    }
}

fn single(command: &Command, facts: &dyn Facts, missing: Missing, out: &mut String) {
    match command.value(facts) {
        Value::Absent => out.push_str("null"),
        Value::Text(text) => quote(&text, out),
        number => number.write(missing, out),
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                out.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
