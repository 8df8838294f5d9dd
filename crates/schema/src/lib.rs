//! Envoy's protobuf schema as data: xDS resources from and to JSON and YAML, `Any` unfolded as Envoy prints it.
//!
//! Knows no meaning of any field. A proxy needs the JSON form to read a bootstrap file and to print `/config_dump`;
//! a descriptor pool for that takes tens of MiB of heap in a process that shall idle in eight, so the schema is a
//! text in the executable's read-only pages, of which only the messages in use are looked up. It is made from the
//! `.proto` files that `envoy-types` ships: `cargo run -p schema --example schema -- FOLDER > crates/schema/src/schema.txt`.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

mod decode;
mod encode;
mod known;
mod table;
mod wire;

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use serde_json::Value;

pub use decode::{Secrets, decode};
pub use encode::encode;

/// What every type URL begins with.
const PREFIX: &str = "type.googleapis.com/";
/// Nesting of messages; real configuration stays below 30.
const DEPTH: usize = 100;

/// Why JSON or protobuf could not be translated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field is wrong.
    #[error("{path}: {reason}")]
    Field {
        /// The field, from the root: `static_resources.clusters[0].name`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not YAML.
    #[error("not YAML: {0}")]
    Yaml(String),
    /// The bytes are not a message of the type.
    #[error("{0}: {1}")]
    Decode(String, &'static str),
}

/// Whether the schema has such a message.
pub fn knows(message: &str) -> bool {
    table::message(message).is_some() || known::is_known(message)
}

/// A message of type `name` (full name, without URL prefix) from its JSON form.
pub fn any(name: &str, value: &Value) -> Result<Any, Error> {
    Ok(Any {
        type_url: format!("{PREFIX}{name}"),
        value: encode(name, value)?,
    })
}

/// A message of a known type from its JSON form.
pub fn message<M: Message + Name + Default>(value: &Value) -> Result<M, Error> {
    let name = M::full_name();
    M::decode(encode(&name, value)?.as_slice())
        .map_err(|_| Error::Decode(name, "not a message of this type"))
}

/// A message of type `name` from its YAML form.
pub fn yaml(name: &str, text: &str) -> Result<Any, Error> {
    any(name, &parse_yaml(text)?)
}

/// YAML, or JSON, as a JSON value.
pub fn parse_yaml(text: &str) -> Result<Value, Error> {
    serde_saphyr::from_str(text).map_err(|error| Error::Yaml(error.to_string()))
}

/// The JSON form of a message: proto field names, unset fields left out, `Any` unfolded with `@type`.
pub fn json(any: &Any) -> Result<Value, Error> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    decode(name, &any.value, Secrets::Shown)
}

/// The JSON form of a message with its key material hidden, for eyes that are not the proxy's own.
pub fn redacted(any: &Any) -> Result<Value, Error> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    decode(name, &any.value, Secrets::Redacted)
}
