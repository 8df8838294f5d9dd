//! Envoy's protobuf schema as data: xDS resources from and to JSON and YAML, `Any` unfolded as Envoy prints it.
//!
//! Knows no meaning of any field. The descriptor set beside this file is made from the `.proto` files that
//! `envoy-types` ships: `cargo run -p schema --example descriptors`.

use std::sync::LazyLock;

use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::Value;

/// What every type URL begins with.
const PREFIX: &str = "type.googleapis.com/";

/// Decoding takes some 25 ms of an optimized build, so it is done on first use.
static POOL: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    let bytes: &[u8] = include_bytes!("envoy.binpb");
    pool.decode_file_descriptor_set(bytes)
        .map_err(|error| error.to_string())?;
    Ok(pool)
});

/// Why a text is not a message, or a message has no text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor set does not hold the type.
    #[error("{0}: no such message")]
    UnknownType(String),
    /// The text does not describe a message of the type.
    #[error("{name}: {reason}")]
    Mismatch {
        /// Full name of the message.
        name: String,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// Not YAML.
    #[error("not YAML: {0}")]
    Yaml(String),
    /// The bytes are not a message of the type.
    #[error("not a protobuf message: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The checked-in descriptor set is broken.
    #[error("descriptor set: {0}")]
    Descriptors(&'static str),
}

/// The descriptor set, for those who look into messages themselves.
pub fn pool() -> Result<&'static DescriptorPool, Error> {
    POOL.as_ref().map_err(|error| Error::Descriptors(error))
}

/// A message of type `name` (full name, without URL prefix) from its JSON form.
pub fn any(name: &str, value: &Value) -> Result<Any, Error> {
    Ok(Any {
        type_url: format!("{PREFIX}{name}"),
        value: dynamic(name, value)?.encode_to_vec(),
    })
}

/// A message of a known type from its JSON form.
pub fn message<M: Message + prost::Name + Default>(value: &Value) -> Result<M, Error> {
    Ok(M::decode(any(&M::full_name(), value)?.value.as_slice())?)
}

/// A message of type `name` from its YAML form.
pub fn yaml(name: &str, text: &str) -> Result<Any, Error> {
    any(name, &parse_yaml(text)?)
}

/// YAML as a JSON value.
pub fn parse_yaml(text: &str) -> Result<Value, Error> {
    serde_saphyr::from_str(text).map_err(|error| Error::Yaml(error.to_string()))
}

/// The JSON form of a message: proto field names, unset fields left out, `Any` unfolded with `@type`.
pub fn json(any: &Any) -> Result<Value, Error> {
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let descriptor = pool()?
        .get_message_by_name(name)
        .ok_or_else(|| Error::UnknownType(name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, any.value.as_slice())?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| Error::Mismatch {
            name: name.to_owned(),
            reason: error.to_string(),
        })
}

fn dynamic(name: &str, value: &Value) -> Result<DynamicMessage, Error> {
    let descriptor = pool()?
        .get_message_by_name(name)
        .ok_or_else(|| Error::UnknownType(name.to_owned()))?;
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor, value, &options).map_err(|error| {
        Error::Mismatch {
            name: name.to_owned(),
            reason: error.to_string(),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LISTENER: &str = "envoy.config.listener.v3.Listener";

    #[test]
    fn a_listener_with_nested_extensions_survives_the_round_trip() {
        let text = r#"
name: web
address: {socket_address: {address: 127.0.0.1, port_value: 0}}
filter_chains:
- filters:
  - name: tcp
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: t
      cluster: c
      idle_timeout: 1.5s
"#;
        let any = yaml(LISTENER, text).unwrap();
        let back = json(&any).unwrap();
        let config = back
            .pointer("/filter_chains/0/filters/0/typed_config")
            .unwrap();
        assert_eq!(
            config.get("idle_timeout").unwrap(),
            &Value::from("1.500s"),
            "{back}"
        );
        assert_eq!(super::any(LISTENER, &back).unwrap(), any);
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = yaml(LISTENER, "nam: web").unwrap_err().to_string();
        assert!(
            error.starts_with("envoy.config.listener.v3.Listener: ") && error.contains("nam"),
            "{error}"
        );
        assert!(matches!(
            yaml("envoy.No", "{}"),
            Err(Error::UnknownType(name)) if name == "envoy.No"
        ));
    }
}
