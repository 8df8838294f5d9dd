//! What becomes of a request's head.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use http::{HeaderName, HeaderValue, Request};
use proxy::config::Value;
use proxy::http::edge::Origin;
use proxy::http::headers::sanitize;
use proxy::http::path;
use proxy::listener::{HttpManager, Listener, Terminal};
use xds::client::Kind;

use crate::{Target, seeds, xds::parse};

/// The normal form of a path.
pub const PATH: Target = Target {
    name: "path",
    run: |data| {
        let Ok(raw) = std::str::from_utf8(data) else {
            return;
        };
        for merge in [false, true] {
            let Some(normal) = path::normalize(raw, merge) else {
                continue;
            };
            assert!(
                normal.starts_with('/') && !normal.contains('\\'),
                "{raw:?} became {normal:?}"
            );
            assert!(
                !normal
                    .split('/')
                    .any(|segment| segment == "." || segment == ".."),
                "{raw:?} became {normal:?}"
            );
            assert!(
                !merge || !normal.contains("//"),
                "{raw:?} became {normal:?}"
            );
            let again = path::normalize(&normal, merge);
            assert_eq!(
                again.as_deref(),
                Some(&*normal),
                "the normal form of {raw:?} is its own"
            );
        }
    },
    seeds: || {
        ["/a/../b", "/%2e%2e/%2fadmin", "//a//b/.", "/a\\..\\b;x=1"]
            .map(Into::into)
            .to_vec()
    },
};

/// A head as HTTP/1 brings it, through the checks that stand before routing.
pub const SANITIZE: Target = Target {
    name: "sanitize",
    run: |data| {
        static LISTENERS: OnceLock<Vec<std::sync::Arc<Listener>>> = OnceLock::new();
        let listeners = LISTENERS.get_or_init(|| {
            let parsed =
                seeds::golden()
                    .into_iter()
                    .filter_map(|(kind, bytes)| match parse(kind, &bytes) {
                        Ok(Value::Listener(listener)) if kind == Kind::Listener => Some(listener),
                        _ => None,
                    });
            parsed.collect()
        });
        let managers = listeners
            .iter()
            .flat_map(|listener| &listener.chains)
            .filter_map(|chain| match &chain.terminal {
                Terminal::Http(manager) => Some(&**manager),
                Terminal::Tcp(_) => None,
            });
        for manager in managers.take(2) {
            check(data, manager);
        }
    },
    seeds: || {
        vec![
            b"GET /a HTTP/1.1\r\nHost: web\r\nConnection: x, close\r\nX: 1\r\n\r\n".to_vec(),
            b"GET http://a/ HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX-Forwarded-Client-Cert: URI=a\r\n\r\n".to_vec(),
        ]
    },
};

fn check(data: &[u8], manager: &HttpManager) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    if !matches!(head.parse(data), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let mut builder = Request::builder()
        .method(head.method.unwrap_or_default())
        .uri(head.path.unwrap_or_default());
    for header in head.headers.iter() {
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(header.name.as_bytes()),
            HeaderValue::from_bytes(header.value),
        ) else {
            return;
        };
        builder = builder.header(name, value);
    }
    let Ok(request) = builder.body(()) else {
        return;
    };
    let (mut parts, ()) = request.into_parts();
    let client_cert = HeaderValue::from_static("URI=spiffe://td/a/b");
    let origin = Origin {
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 80,
        is_tls: true,
        client_cert: Some(&client_cert),
    };
    if let Ok(target) = sanitize(&mut parts, origin, &manager.heads, &manager.edge) {
        for name in [
            "connection",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "keep-alive",
            "proxy-connection",
        ] {
            assert!(!parts.headers.contains_key(name), "{name} belongs to a hop");
        }
        assert!(
            target.path_and_query.starts_with('/')
                || target.path_and_query == "*"
                || !manager.heads.paths.normalize
        );
        assert!(!target.authority.contains(['@', '/', ' ', '\\']));
    }
}
