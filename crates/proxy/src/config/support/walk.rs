//! The walk over a message's bytes with the table beside it.

use xds::client::Rejected;

use super::filters::{FILTERS, OVERRIDES};
use super::{Field, Ignored, Message, Rule};
use crate::http::filters::extension::{Factory, factory, route_factory};

/// Nesting of messages; prost itself stops at 100, real resources stay below 20.
const DEPTH: usize = 64;

/// Walks a whole resource.
pub(super) fn walk(root: &'static Message, bytes: &[u8]) -> Result<Ignored, Rejected> {
    let mut walker = Walker {
        path: String::new(),
        ignored: Vec::new(),
    };
    walker.message(root, bytes, 0)?;
    Ok(walker.ignored)
}

struct Walker {
    path: String,
    ignored: Ignored,
}

/// Finds the factory of an extension's message.
type Registry = fn(&str) -> Option<&'static dyn Factory>;

/// A field as it stands on the wire.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Walker {
    fn message(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(), Rejected> {
        if depth > DEPTH {
            return Err(self.refuse("nested too deeply"));
        }
        let mut rest = bytes;
        let mut counts: Vec<(u32, usize)> = Vec::new();
        while !rest.is_empty() {
            let (number, value, after) =
                next(rest).ok_or_else(|| self.refuse("not a protobuf message"))?;
            rest = after;
            let length = self.path.len();
            match message.fields.iter().find(|field| field.number == number) {
                Some(field) => {
                    let index = nth(&mut counts, number);
                    self.enter(field, index);
                    self.field(field, value, depth)?;
                }
                None => {
                    self.push(&format!("field number {number}"));
                    return Err(self.refuse(&format!(
                        "{} has no such field that is supported",
                        message.name
                    )));
                }
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, value: Value<'_>, depth: usize) -> Result<(), Rejected> {
        match field.rule {
            Rule::Take => Ok(()),
            Rule::Ignore(why) => {
                self.ignored.push((self.path.clone(), why));
                Ok(())
            }
            Rule::Zero(_) if is_zero(&value) => Ok(()),
            Rule::Zero(why) => Err(self.refuse(&format!("not supported: {why}"))),
            Rule::Refuse => Err(self.refuse("this field changes the meaning and is not supported")),
            Rule::Into(target) | Rule::Each(target) => {
                self.message(target, self.bytes(value)?, depth + 1)
            }
            Rule::Entries(target) => {
                let entry = self.entry(self.bytes(value)?)?;
                self.message(target, entry, depth + 1)
            }
            Rule::Any(targets) => self.extension(targets, None, self.bytes(value)?, depth),
            Rule::AnyMap(targets) => {
                let entry = self.entry(self.bytes(value)?)?;
                self.extension(targets, None, entry, depth)
            }
            Rule::Filter => self.extension(FILTERS, Some(factory), self.bytes(value)?, depth),
            Rule::Override => {
                let bytes = self.bytes(value)?;
                self.extension(OVERRIDES, Some(route_factory), bytes, depth)
            }
            Rule::Overrides => {
                let entry = self.entry(self.bytes(value)?)?;
                self.extension(OVERRIDES, Some(route_factory), entry, depth)
            }
        }
    }

    fn extension(
        &mut self,
        targets: &[&'static Message],
        registry: Option<Registry>,
        any: &[u8],
        depth: usize,
    ) -> Result<(), Rejected> {
        let (mut type_url, mut payload): (&[u8], &[u8]) = (&[], &[]);
        let mut rest = any;
        while !rest.is_empty() {
            let (number, value, after) =
                next(rest).ok_or_else(|| self.refuse("not a protobuf Any"))?;
            rest = after;
            match (number, value) {
                (1, Value::Bytes(bytes)) => type_url = bytes,
                (2, Value::Bytes(bytes)) => payload = bytes,
                _ => return Err(self.refuse("not a protobuf Any")),
            }
        }
        let type_url = String::from_utf8_lossy(type_url);
        let name = type_url.rsplit('/').next().unwrap_or_default();
        match targets.iter().find(|target| target.name == name) {
            Some(target) => self.message(target, payload, depth + 1),
            // Its factory looks into it.
            None if registry.is_some_and(|find| find(name).is_some()) => Ok(()),
            None => Err(self.refuse(&format!("extension {name:?} is not supported here"))),
        }
    }

    /// The value of a map's entry; its key goes into the path.
    fn entry<'a>(&mut self, entry: &'a [u8]) -> Result<&'a [u8], Rejected> {
        let (mut key, mut payload): (&[u8], &[u8]) = (&[], &[]);
        let mut rest = entry;
        while !rest.is_empty() {
            let (number, value, after) =
                next(rest).ok_or_else(|| self.refuse("not a map entry"))?;
            rest = after;
            match (number, value) {
                (1, Value::Bytes(bytes)) => key = bytes,
                (2, Value::Bytes(bytes)) => payload = bytes,
                _ => return Err(self.refuse("not a map entry")),
            }
        }
        self.path
            .push_str(&format!("[{:?}]", String::from_utf8_lossy(key)));
        Ok(payload)
    }

    fn bytes<'a>(&self, value: Value<'a>) -> Result<&'a [u8], Rejected> {
        match value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) => Err(self.refuse("a message was expected")),
        }
    }

    fn enter(&mut self, field: &Field, index: usize) {
        self.push(field.name);
        if matches!(field.rule, Rule::Each(_)) {
            self.path.push_str(&format!("[{index}]"));
        }
    }

    fn push(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    fn refuse(&self, reason: &str) -> Rejected {
        Rejected::new(self.path.clone(), reason)
    }
}

fn nth(counts: &mut Vec<(u32, usize)>, number: u32) -> usize {
    match counts.iter_mut().find(|(seen, _)| *seen == number) {
        Some((_, count)) => {
            *count += 1;
            *count
        }
        None => {
            counts.push((number, 0));
            0
        }
    }
}

/// Whether a scalar, or a wrapper message around one, holds its default.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Number(number) => *number == 0,
        Value::Bytes(bytes) => bytes.is_empty() || matches!(bytes, [8, 0]),
    }
}

/// Splits the next field off: its number, its value, what follows.
fn next(bytes: &[u8]) -> Option<(u32, Value<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
    match key & 7 {
        0 => varint(rest).map(|(value, rest)| (number, Value::Number(value), rest)),
        1 => rest
            .split_at_checked(8)
            .map(|(value, rest)| (number, Value::Bytes(value), rest)),
        2 => {
            let (length, rest) = varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((number, Value::Bytes(value), rest))
        }
        5 => rest
            .split_at_checked(4)
            .map(|(value, rest)| (number, Value::Bytes(value), rest)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(index).ok()?.checked_mul(7)?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index.checked_add(1)?..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};
    use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message;
    use xds::client::Kind;

    use super::super::check;

    #[test]
    fn a_field_that_is_not_honoured_is_named_with_its_path() {
        let extension = Any {
            type_url: "type.googleapis.com/envoy.Foo".into(),
            value: vec![],
        };
        let filter = Filter {
            config_type: Some(filter::ConfigType::TypedConfig(extension)),
            ..Default::default()
        };
        let chain = FilterChain {
            filters: vec![filter],
            ..Default::default()
        };
        let listener = Listener {
            filter_chains: vec![FilterChain::default(), chain],
            ..Default::default()
        };
        let refused = check(Kind::Listener, &listener.encode_to_vec()).unwrap_err();
        assert_eq!(refused.path, "filter_chains[1].filters[0].typed_config");
        assert_eq!(
            refused.reason,
            "extension \"envoy.Foo\" is not supported here"
        );
    }

    #[test]
    fn a_default_value_is_not_refused_and_another_is() {
        let with = |protocol: i32| {
            let socket = SocketAddress {
                protocol,
                ..Default::default()
            };
            let address = Address {
                address: Some(address::Address::SocketAddress(socket)),
            };
            Listener {
                address: Some(address),
                ..Default::default()
            }
            .encode_to_vec()
        };
        assert!(check(Kind::Listener, &with(0)).is_ok());
        assert_eq!(
            check(Kind::Listener, &with(1)).unwrap_err().path,
            "address.socket_address.protocol"
        );
    }

    #[test]
    fn ignored_fields_are_listed() {
        let cluster = Cluster {
            name: "c".into(),
            alt_stat_name: "x".into(),
            ..Default::default()
        };
        let ignored = check(Kind::Cluster, &cluster.encode_to_vec()).unwrap();
        assert_eq!(ignored[0].0, "alt_stat_name");
    }

    #[test]
    fn a_field_of_a_newer_envoy_and_garbage_are_refused() {
        let refused = check(Kind::Cluster, &[0xf8, 0xff, 0x01, 1]).unwrap_err();
        assert!(refused.path.starts_with("field number"), "{refused}");
        for garbage in [
            &[0xff][..],
            &[10, 200],
            &[7],
            &[3, 3, 3],
            &[0x0b],
            &[0x1a, 1],
        ] {
            assert!(check(Kind::Cluster, garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn the_page_lists_every_kind_and_no_message_twice() {
        let page = super::super::markdown();
        for name in [
            "# CDS",
            "# SDS",
            "HttpConnectionManager",
            "| retry_policy | refused |",
        ] {
            assert!(page.contains(name), "{name}");
        }
        let titles: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("## "))
            .collect();
        let unique: std::collections::BTreeSet<&&str> = titles.iter().collect();
        assert_eq!(titles.len(), unique.len());
    }
}
