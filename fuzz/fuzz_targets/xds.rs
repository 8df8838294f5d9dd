//! A control plane that is hostile or broken: any bytes as any kind of resource.

use prost::Message;
use proxy::config::{ConfigParser, Value};
use proxy::matcher::RequestView;
use xds::client::{Any, Kind, Parser};

use crate::{Target, seeds};

/// First byte: kind. Rest: the resource.
pub const RESOURCE: Target = Target {
    name: "xds-resource",
    run: |data| {
        let Some((kind, bytes)) = data.split_first() else {
            return;
        };
        let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
        if let Ok(value) = parse(kind, bytes) {
            // What is printed of a configuration never holds a key.
            assert!(!format!("{value:?}").contains("PRIVATE KEY"));
        }
    },
    seeds: || {
        let kinds = Kind::ALL;
        let number = |kind| {
            kinds
                .iter()
                .position(|known| *known == kind)
                .unwrap_or_default() as u8
        };
        seeds::golden()
            .into_iter()
            .map(|(kind, bytes)| [&[number(kind)], &bytes[..]].concat())
            .collect()
    },
};

/// A request's line (until the first newline) and a route table it is looked up in.
pub const ROUTE: Target = Target {
    name: "route-lookup",
    run: |data| {
        let end = data
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(data.len());
        let (line, table) = (&data[..end], data.get(end + 1..).unwrap_or_default());
        let Ok(line) = std::str::from_utf8(line) else {
            return;
        };
        let (authority, path) = line.split_once('/').unwrap_or((line, ""));
        let path = format!("/{path}");
        if let Ok(Value::Routes(table)) = parse(Kind::Routes, table) {
            let headers = http::HeaderMap::new();
            let request = RequestView {
                method: "GET",
                path_and_query: &path,
                authority,
                scheme: "http",
                headers: &headers,
            };
            let _ = table.find(&request, &proxy::route::Client::default());
        }
    },
    seeds: || {
        let routes = seeds::golden()
            .into_iter()
            .filter(|(kind, _)| *kind == Kind::Routes);
        routes
            .map(|(_, bytes)| [&b"web.shop:80/get?x=1\n"[..], &bytes].concat())
            .collect()
    },
};

pub fn parse(kind: Kind, bytes: &[u8]) -> Result<Value, ()> {
    let mut parser = ConfigParser {
        own_certificate: "own".into(),
    };
    let any = Any {
        type_url: kind.type_url().into(),
        value: bytes.to_vec(),
    };
    debug_assert!(any.encoded_len() >= bytes.len());
    parser
        .parse(kind, "name", &any)
        .map(|parsed| parsed.value.value)
        .map_err(drop)
}
