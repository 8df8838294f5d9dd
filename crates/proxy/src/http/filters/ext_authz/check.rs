//! The question: who asks for what (`AttributeContext`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request, TlsSession,
};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::Timestamp;
use http::Version;

use super::{Body, Shown};
use crate::connection::Connection;
use crate::http::filters::FilterContext;
use crate::worker::roll;

/// Tells the service whether the body it sees is all of it.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
const SERVICE: &str = "x-envoy-downstream-service-cluster";

/// Both ends of a connection.
pub fn of_connection(connection: &Connection, tls_session: bool) -> AttributeContext {
    let principal = connection.is_tls.then_some(connection.peer.names.as_ref());
    let principal = principal.flatten().and_then(|names| names.first());
    let own = connection.is_tls.then(|| connection.own_name()).flatten();
    AttributeContext {
        source: Some(peer(connection.source, principal.cloned())),
        destination: Some(peer(connection.peer.destination, own)),
        tls_session: tls_session.then(|| TlsSession {
            sni: connection.peer.server_name.clone().unwrap_or_default(),
        }),
        ..Default::default()
    }
}

fn peer(at: SocketAddr, principal: Option<String>) -> Peer {
    let port = core::socket_address::PortSpecifier::PortValue(at.port().into());
    let socket = core::SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(port),
        ..Default::default()
    };
    Peer {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(socket)),
        }),
        principal: principal.unwrap_or_default(),
        ..Default::default()
    }
}

/// The whole question over a request.
pub(super) fn question(
    shown: &Shown,
    context: &FilterContext<'_, '_>,
    body: Option<&Body>,
    extensions: HashMap<String, String>,
) -> CheckRequest {
    let mut attributes = of_connection(context.connection, shown.tls_session);
    if let Some(source) = &mut attributes.source {
        let service = context.parts.headers.get(SERVICE);
        source.service = service.map_or_else(String::new, |value| text(value.as_bytes()));
        if shown.certificate {
            source.certificate = context.connection.certificate_pem().unwrap_or_default();
        }
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    attributes.request = Some(Request {
        time: Some(Timestamp {
            seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
        }),
        http: Some(request(shown, context, body)),
    });
    attributes.context_extensions = extensions;
    attributes.metadata_context = Some(core::Metadata::default());
    CheckRequest {
        attributes: Some(attributes),
    }
}

fn request(shown: &Shown, context: &FilterContext<'_, '_>, body: Option<&Body>) -> HttpRequest {
    let (parts, target) = (&context.parts, &context.target);
    let mut request = HttpRequest {
        id: roll().to_string(),
        method: parts.method.to_string(),
        path: target.path_and_query.clone(),
        host: target.authority.clone(),
        scheme: target.scheme.to_owned(),
        protocol: match parts.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        ..Default::default()
    };
    let mut headers: Vec<(&str, &[u8])> = vec![
        (":method", parts.method.as_str().as_bytes()),
        (":path", target.path_and_query.as_bytes()),
        (":authority", target.authority.as_bytes()),
        (":scheme", target.scheme.as_bytes()),
    ];
    let others = parts.headers.iter();
    headers.extend(
        others
            .filter(|(name, _)| name.as_str() != PARTIAL_BODY)
            .map(|(name, value)| (name.as_str(), value.as_bytes())),
    );
    headers.retain(|(name, _)| shown.shows(name, true));
    if let Some((settings, buffered)) = body {
        let partial: &[u8] = if buffered.whole { b"false" } else { b"true" };
        headers.push((PARTIAL_BODY, partial));
        request.size = i64::try_from(buffered.bytes.len()).unwrap_or(i64::MAX);
        if settings.as_bytes {
            request.raw_body = buffered.bytes.to_vec();
        } else {
            request.body = text(&buffered.bytes);
        }
    }
    if shown.raw_headers {
        let list = headers.iter().map(|(name, value)| core::HeaderValue {
            key: (*name).to_owned(),
            raw_value: value.to_vec(),
            ..Default::default()
        });
        request.header_map = Some(core::HeaderMap {
            headers: list.collect(),
        });
        return request;
    }
    for (name, value) in headers {
        let value = text(value);
        let all = request.headers.entry(name.to_owned()).or_default();
        if all.is_empty() {
            *all = value;
        } else {
            all.push(',');
            all.push_str(&value);
        }
    }
    request
}

/// Bytes as text: what is not UTF-8 becomes `!`, as in Envoy.
fn text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '!'));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_not_text_is_marked() {
        assert_eq!(super::text(b"a\xff\xfeb"), "a!!b");
        assert_eq!(super::text("ü".as_bytes()), "ü");
    }
}
