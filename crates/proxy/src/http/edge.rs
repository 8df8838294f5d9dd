//! The edge: whom a request comes from, which of its headers are believed, and what the upstream is told of it.
//!
//! The rules are Envoy's. A request is *internal* if its client's address is one of those configured as internal and it
//! was not forwarded by anybody before; an *edge* request is any other that the connection's own address stands for.
//! Headers by which a client steers the proxy (time-outs, retries) are taken from every request that is not internal.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::headers::X_REQUEST_ID;
use crate::listener::ClientCert;
use crate::matcher::contains;
use crate::worker::request_id;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const VIA: HeaderName = HeaderName::from_static("via");

/// Headers by which only internal clients steer the proxy.
const STEERING: [HeaderName; 14] = [
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// What a connection manager believes, and what it says.
#[derive(Debug, Clone, Default)]
pub struct Edge {
    /// The connection's own address is the client's: forwarding headers are not believed.
    pub use_remote_address: bool,
    /// Proxies in front whose forwarding headers are believed.
    pub trusted_hops: u32,
    /// Leaves `x-forwarded-for` alone.
    pub skip_xff_append: bool,
    /// Writes `x-forwarded-port`.
    pub append_port: bool,
    /// Addresses of internal clients.
    pub internal: Vec<IpNet>,
    /// Makes a request id where there is none.
    pub generate_request_id: bool,
    /// Keeps the id of an edge request.
    pub keep_request_id: bool,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_cert: ClientCert,
    /// Added to `via` of requests and responses.
    pub via: Option<HeaderValue>,
}

/// A request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The address of its other end.
    pub source: IpAddr,
    /// The port it was going to.
    pub port: u16,
    /// It came over TLS that we terminated.
    pub is_tls: bool,
    /// What `x-forwarded-client-cert` says of the verified client; `None` without a certificate.
    pub client_cert: Option<&'a HeaderValue>,
}

/// Whom a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// The client's address.
    pub address: IpAddr,
    /// It is internal.
    pub is_internal: bool,
}

impl Edge {
    /// Finds the client, takes what it may not say, adds what the upstream is to know.
    pub fn receive(&self, headers: &mut HeaderMap, origin: Origin<'_>) -> Sender {
        headers.remove(INTERNAL);
        let sender = self.sender(headers, origin.source);
        self.forwarded(headers, origin);
        let is_edge = self.use_remote_address && !sender.is_internal;
        if sender.is_internal {
            headers.insert(INTERNAL, HeaderValue::from_static("true"));
        } else {
            for name in &STEERING {
                headers.remove(name);
            }
        }
        if is_edge {
            strip_all(headers);
        }
        if is_edge && let Ok(address) = HeaderValue::try_from(sender.address.to_string()) {
            headers.insert(EXTERNAL_ADDRESS, address);
        }
        let has_id = headers.contains_key(X_REQUEST_ID);
        let wants_id = !has_id || (is_edge && !self.keep_request_id);
        if self.generate_request_id
            && wants_id
            && let Ok(id) = HeaderValue::try_from(request_id())
        {
            headers.insert(X_REQUEST_ID, id);
        }
        self.certificate(headers, origin.client_cert);
        self.sign(headers);
        sender
    }

    /// Adds to `via`.
    pub fn sign(&self, headers: &mut HeaderMap) {
        if let Some(via) = &self.via {
            append(headers, VIA, via, b", ");
        }
    }

    /// The client, by its connection or by what trusted proxies forwarded.
    fn sender(&self, headers: &HeaderMap, source: IpAddr) -> Sender {
        let (found, alone) = if self.use_remote_address {
            let found = match self.trusted_hops.checked_sub(1) {
                Some(skip) => forwarded_for(headers, skip),
                None => None,
            };
            (found, !headers.contains_key(X_FORWARDED_FOR))
        } else {
            let found = forwarded_for(headers, self.trusted_hops);
            (found, found.is_some() && is_single(headers))
        };
        let address = found.unwrap_or(source);
        Sender {
            address,
            is_internal: alone && contains(&self.internal, address),
        }
    }

    /// `x-forwarded-for`, `-proto`, `-port`.
    fn forwarded(&self, headers: &mut HeaderMap, origin: Origin<'_>) {
        let proto = HeaderValue::from_static(if origin.is_tls { "https" } else { "http" });
        if self.use_remote_address {
            if !self.skip_xff_append
                && let Ok(address) = HeaderValue::try_from(origin.source.to_string())
            {
                append(headers, X_FORWARDED_FOR, &address, b",");
            }
            if self.trusted_hops == 0 {
                headers.insert(X_FORWARDED_PROTO, proto.clone());
            }
            let believed = self.trusted_hops > 0 && headers.contains_key(X_FORWARDED_PORT);
            if self.append_port && !believed {
                headers.insert(X_FORWARDED_PORT, HeaderValue::from(origin.port));
            }
        }
        // What nobody says is known here; what is no scheme, or several, is not believed.
        let mut said = headers.get_all(X_FORWARDED_PROTO).iter();
        let is_scheme = said
            .next()
            .is_some_and(|value| matches!(value.as_bytes(), b"http" | b"https"));
        if !is_scheme || said.next().is_some() {
            headers.insert(X_FORWARDED_PROTO, proto);
        }
    }

    /// `x-forwarded-client-cert`.
    fn certificate(&self, headers: &mut HeaderMap, own: Option<&HeaderValue>) {
        let own = match (self.client_cert, own) {
            (ClientCert::AlwaysForwardOnly, _) => return,
            (ClientCert::Sanitize, _) | (_, None) => {
                headers.remove(X_FORWARDED_CLIENT_CERT);
                return;
            }
            (_, Some(own)) => own,
        };
        match self.client_cert {
            ClientCert::AppendForward => append(headers, X_FORWARDED_CLIENT_CERT, own, b","),
            ClientCert::SanitizeSet => {
                headers.insert(X_FORWARDED_CLIENT_CERT, own.clone());
            }
            ClientCert::ForwardOnly | ClientCert::Sanitize | ClientCert::AlwaysForwardOnly => {}
        }
    }
}

/// Takes every header of the proxy's own from a request from outside: Envoy leaves those it does not read, but a mesh's
/// next proxy may read them.
fn strip_all(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| name.as_str().starts_with("x-envoy-");
    if headers.keys().any(|name| is_ours(&name)) {
        let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
        for name in ours {
            headers.remove(name);
        }
    }
}

/// The last address but `skip` of `x-forwarded-for`.
fn forwarded_for(headers: &HeaderMap, skip: u32) -> Option<IpAddr> {
    let mut skip = usize::try_from(skip).ok()?;
    for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        let list = value.to_str().ok()?;
        let count = list.split(',').count();
        if skip < count {
            return list.rsplit(',').nth(skip)?.trim().parse().ok();
        }
        skip = skip.checked_sub(count)?;
    }
    None
}

/// `x-forwarded-for` holds one address.
fn is_single(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(X_FORWARDED_FOR).iter();
    let first = values.next();
    first.is_some_and(|value| !value.as_bytes().contains(&b',')) && values.next().is_none()
}

/// Adds to a list in one header.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue, separator: &[u8]) {
    let mut all: Vec<u8> = Vec::new();
    for part in headers.get_all(&name).iter().chain([value]) {
        if !all.is_empty() {
            all.extend_from_slice(separator);
        }
        all.extend_from_slice(part.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&all) {
        headers.insert(name, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn origin(client_cert: Option<&HeaderValue>) -> Origin<'_> {
        Origin {
            source: [10, 0, 0, 9].into(),
            port: 8080,
            is_tls: false,
            client_cert,
        }
    }

    fn edge(use_remote_address: bool, trusted_hops: u32) -> Edge {
        Edge {
            use_remote_address,
            trusted_hops,
            internal: vec!["10.0.0.0/8".parse().unwrap()],
            ..Edge::default()
        }
    }

    #[test]
    fn clients_are_found_as_envoy_finds_them() {
        type Case = (bool, u32, &'static [&'static str], [u8; 4], bool);
        let cases: [Case; 12] = [
            (true, 0, &[], [10, 0, 0, 9], true),
            (true, 0, &["203.0.113.1"], [10, 0, 0, 9], false),
            (
                true,
                1,
                &["203.0.113.1, 203.0.113.2"],
                [203, 0, 113, 2],
                false,
            ),
            (
                true,
                2,
                &["203.0.113.1,203.0.113.2"],
                [203, 0, 113, 1],
                false,
            ),
            (true, 3, &["203.0.113.1,203.0.113.2"], [10, 0, 0, 9], false),
            (false, 0, &[], [10, 0, 0, 9], false),
            (false, 0, &["10.1.1.1"], [10, 1, 1, 1], true),
            (false, 0, &["203.0.113.1"], [203, 0, 113, 1], false),
            (false, 0, &["203.0.113.1,10.1.1.1"], [10, 1, 1, 1], false),
            (
                false,
                1,
                &["203.0.113.1", "10.1.1.1"],
                [203, 0, 113, 1],
                false,
            ),
            (false, 0, &["nonsense"], [10, 0, 0, 9], false),
            (false, 4, &["10.1.1.1"], [10, 0, 0, 9], false),
        ];
        for (use_remote, hops, forwarded, address, is_internal) in cases {
            let list: Vec<_> = forwarded.iter().map(|v| ("x-forwarded-for", *v)).collect();
            let mut headers = map(&list);
            let sender = edge(use_remote, hops).receive(&mut headers, origin(None));
            let expected = Sender {
                address: address.into(),
                is_internal,
            };
            assert_eq!(sender, expected, "{use_remote} {hops} {forwarded:?}");
            assert_eq!(headers.contains_key(INTERNAL), is_internal);
        }
    }

    #[test]
    fn only_internal_clients_steer_the_proxy() {
        let sent = [
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-internal", "true"),
            ("x-envoy-downstream-service-cluster", "c"),
            ("x-own", "1"),
            ("x-envoy-attempt-count", "7"),
        ];
        let left = |edge: &Edge, more: &[(&'static str, &str)]| {
            let mut headers = map(&sent);
            headers.extend(map(more));
            edge.receive(&mut headers, origin(None));
            let mut names: Vec<String> = headers
                .keys()
                .map(|name| name.as_str().to_owned())
                .filter(|name| !name.starts_with("x-forwarded"))
                .collect();
            names.sort();
            names
        };
        let kept = [
            "x-envoy-attempt-count",
            "x-envoy-downstream-service-cluster",
            "x-envoy-internal",
            "x-envoy-retry-on",
            "x-envoy-upstream-rq-timeout-ms",
            "x-own",
        ];
        assert_eq!(left(&edge(true, 0), &[]), kept);
        assert_eq!(
            left(&edge(true, 0), &[("x-forwarded-for", "1.1.1.1")]),
            ["x-envoy-external-address", "x-own"]
        );
        assert_eq!(
            left(&edge(false, 0), &[]),
            [
                "x-envoy-attempt-count",
                "x-envoy-downstream-service-cluster",
                "x-own"
            ]
        );
    }

    #[test]
    fn forwarding_headers_are_written() {
        let mut headers = map(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("via", "1.1 front"),
        ]);
        let mut first = edge(true, 0);
        first.append_port = true;
        first.via = Some(HeaderValue::from_static("1.1 own"));
        first.receive(&mut headers, origin(None));
        assert_eq!(headers[X_FORWARDED_FOR], "1.1.1.1,2.2.2.2,10.0.0.9");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        assert_eq!(headers[X_FORWARDED_PORT], "8080");
        assert_eq!(headers[VIA], "1.1 front, 1.1 own");
        for (hops, proto, expected) in [
            (1, "https", "https"),
            (0, "https", "http"),
            (1, "ws", "http"),
        ] {
            let mut headers = map(&[("x-forwarded-proto", proto)]);
            edge(true, hops).receive(&mut headers, origin(None));
            assert_eq!(headers[X_FORWARDED_PROTO], expected, "{hops} {proto}");
        }
    }

    #[test]
    fn ids_of_strangers_are_replaced_unless_they_are_to_be_kept() {
        let cases = [
            (true, false, false),
            (true, true, true),
            (false, false, true),
        ];
        for (use_remote_address, keep_request_id, kept) in cases {
            let edge = Edge {
                use_remote_address,
                keep_request_id,
                generate_request_id: true,
                ..Edge::default()
            };
            let mut headers = map(&[("x-request-id", "theirs")]);
            edge.receive(&mut headers, origin(None));
            assert_eq!(headers[X_REQUEST_ID] == "theirs", kept);
            let mut headers = HeaderMap::new();
            edge.receive(&mut headers, origin(None));
            assert_eq!(headers[X_REQUEST_ID].len(), 36);
        }
    }

    #[test]
    fn client_certificates_of_others_do_not_pass() {
        let own = HeaderValue::from_static("URI=spiffe://a");
        let cases = [
            (ClientCert::Sanitize, Some(&own), None),
            (ClientCert::SanitizeSet, Some(&own), Some("URI=spiffe://a")),
            (ClientCert::SanitizeSet, None, None),
            (
                ClientCert::AppendForward,
                Some(&own),
                Some("URI=evil,URI=spiffe://a"),
            ),
            (ClientCert::AppendForward, None, None),
            (ClientCert::ForwardOnly, Some(&own), Some("URI=evil")),
            (ClientCert::ForwardOnly, None, None),
            (ClientCert::AlwaysForwardOnly, None, Some("URI=evil")),
        ];
        for (client_cert, own, expected) in cases {
            let edge = Edge {
                client_cert,
                ..Edge::default()
            };
            let mut headers = map(&[("x-forwarded-client-cert", "URI=evil")]);
            edge.receive(&mut headers, origin(own));
            let found = headers.get(X_FORWARDED_CLIENT_CERT);
            let found = found.map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{client_cert:?}");
        }
    }
}
