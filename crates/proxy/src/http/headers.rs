//! Headers between the hops: what is refused, what is stripped, what is added.

use std::net::IpAddr;

use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use super::path;
use crate::listener::{ClientCert, EscapedSlashes, HttpManager, Underscores};
use crate::matcher::RequestView;
use crate::reason::Reason;
use crate::worker::request_id;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The id by which a request is found in all logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a request is, once it is sane.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The authority as the client gave it; empty in HTTP/1.0 without Host.
    pub authority: String,
    /// Normal path, and query.
    pub path_and_query: String,
    /// The client is to ask for that path instead.
    pub is_moved: bool,
    /// By the connection.
    pub scheme: &'static str,
    /// The protocol the client wants to switch to, lower case.
    pub upgrade: Option<String>,
    /// The client's address, where forwarding headers are believed and name one.
    pub remote: Option<IpAddr>,
}

/// A request from a connection, for headers that name the client.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Its address.
    pub source: IpAddr,
    /// It came over TLS that we terminated.
    pub is_tls: bool,
    /// The verified name of the client.
    pub principal: Option<&'a str>,
}

impl Target {
    /// The request as matchers see it.
    pub fn view<'a>(&'a self, method: &'a Method, headers: &'a HeaderMap) -> RequestView<'a> {
        // As Envoy: routes and policies see an extended CONNECT as the upgrade it stands for.
        let method = match (method, &self.upgrade) {
            (&Method::CONNECT, Some(_)) => "GET",
            (method, _) => method.as_str(),
        };
        RequestView {
            method,
            path_and_query: &self.path_and_query,
            authority: &self.authority,
            scheme: self.scheme,
            headers,
        }
    }
}

/// Checks a request and takes from it what belongs to its hop only.
pub fn sanitize(
    parts: &mut Parts,
    origin: Origin<'_>,
    manager: &HttpManager,
) -> Result<Target, Reason> {
    // Both would let two hops read two different requests: RFC 9112 §6.3.
    if parts.headers.contains_key(TRANSFER_ENCODING) && parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(Reason::BadRequest);
    }
    let upgrade = upgrade(parts);
    let authority = authority(parts)?;
    if parts.method == Method::CONNECT && upgrade.is_none() {
        return Err(Reason::RouteNotFound); // No route takes CONNECT.
    }
    check_underscores(&mut parts.headers, manager.underscores)?;
    let (path_and_query, is_moved) = match parts.uri.path_and_query() {
        Some(whole) if whole.path() == "*" && parts.method == Method::OPTIONS => {
            ("*".to_owned(), false)
        }
        Some(whole) => path_and_query(whole, manager)?,
        None => ("/".to_owned(), false),
    };
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(HOST);
    if parts.version == Version::HTTP_2 {
        join_crumbs(&mut parts.headers);
    }
    // The connection answers it when the body is first read.
    parts.headers.remove(EXPECT);
    forwarding(&mut parts.headers, origin, manager);
    let scheme = if origin.is_tls { "https" } else { "http" };
    Ok(Target {
        authority,
        path_and_query,
        is_moved,
        scheme,
        upgrade,
        remote: None,
    })
}

/// The path as everybody behind us sees it, and whether the client is to ask for it anew.
fn path_and_query(whole: &PathAndQuery, manager: &HttpManager) -> Result<(String, bool), Reason> {
    let unescaped = match manager.escaped_slashes {
        EscapedSlashes::Keep => None,
        _ => path::unescape_slashes(whole.path()),
    };
    if unescaped.is_some() && manager.escaped_slashes == EscapedSlashes::Reject {
        return Err(Reason::BadRequest);
    }
    let is_moved = unescaped.is_some() && manager.escaped_slashes == EscapedSlashes::Redirect;
    let raw = unescaped.as_deref().unwrap_or(whole.path());
    let normal = if manager.normalize_path {
        path::normalize(raw, manager.merge_slashes).ok_or(Reason::BadRequest)?
    } else {
        raw.into()
    };
    let all = match whole.query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal.into_owned(),
    };
    Ok((all, is_moved))
}

fn check_underscores(headers: &mut HeaderMap, action: Underscores) -> Result<(), Reason> {
    if action == Underscores::Allow {
        return Ok(());
    }
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if action == Underscores::Reject && !found.is_empty() {
        return Err(Reason::BadRequest);
    }
    for name in found {
        headers.remove(name);
    }
    Ok(())
}

/// HTTP/2 splits cookies for its compression (RFC 9113 §8.2.3); whoever reads them wants one.
fn join_crumbs(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let mut all: Vec<u8> = Vec::new();
    for crumb in headers.get_all(COOKIE) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(cookie) = HeaderValue::from_bytes(&all) {
        headers.insert(COOKIE, cookie);
    }
}

/// The one authority of a request.
fn authority(parts: &Parts) -> Result<String, Reason> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Reason::BadRequest), // RFC 9112 §3.2
        (Some(host), None) => Some(host.to_str().map_err(|_| Reason::BadRequest)?),
        (None, None) => None,
    };
    let from_uri = parts.uri.authority().map(|authority| authority.as_str());
    let chosen = match (from_uri, host) {
        // RFC 9113 §8.3.1: they must not differ.
        (Some(uri), Some(host))
            if parts.version == Version::HTTP_2 && !uri.eq_ignore_ascii_case(host) =>
        {
            return Err(Reason::BadRequest);
        }
        (Some(uri), _) => uri, // RFC 9112 §3.2.2: the absolute form wins.
        (None, Some(host)) => host,
        (None, None) if parts.version < Version::HTTP_11 => "",
        (None, None) => return Err(Reason::BadRequest),
    };
    let valid = chosen
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"@/?#\\\"<>^`{|}".contains(&byte));
    if valid {
        Ok(chosen.to_owned())
    } else {
        Err(Reason::BadRequest)
    }
}

/// The protocol the client wants to switch to. `h2c` is nobody's business but the next hop's.
fn upgrade(parts: &Parts) -> Option<String> {
    if let Some(protocol) = parts.extensions.get::<Protocol>() {
        return Some(protocol.as_str().to_ascii_lowercase());
    }
    let wants = tokens(&parts.headers).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let protocol = parts
        .headers
        .get(UPGRADE)?
        .to_str()
        .ok()?
        .trim()
        .to_ascii_lowercase();
    (wants && parts.version == Version::HTTP_11 && !protocol.is_empty() && protocol != "h2c")
        .then_some(protocol)
}

/// The tokens of all `Connection` headers.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
}

/// Removes what belongs to one hop: RFC 9110 §7.6.1.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let has_trailers = headers.get_all(TE).iter().any(|value| {
        value.to_str().is_ok_and(|list| {
            list.split(',')
                .any(|token| token.trim().eq_ignore_ascii_case("trailers"))
        })
    });
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        HTTP2_SETTINGS,
        TE,
    ] {
        headers.remove(name);
    }
    if has_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// `x-forwarded-*`, `x-request-id`, `x-forwarded-client-cert`.
fn forwarding(headers: &mut HeaderMap, origin: Origin<'_>, manager: &HttpManager) {
    let scheme = HeaderValue::from_static(if origin.is_tls { "https" } else { "http" });
    if manager.use_remote_address {
        if !manager.skip_xff_append
            && let Ok(address) = HeaderValue::from_str(&origin.source.to_string())
        {
            append_to_list(headers, X_FORWARDED_FOR, &address);
        }
        // Nobody outside may speak for the proxy.
        let spoken: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-envoy-"))
            .cloned()
            .collect();
        for name in spoken {
            headers.remove(name);
        }
        headers.insert(X_FORWARDED_PROTO, scheme.clone());
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(scheme);
    if manager.generate_request_id
        && !headers.contains_key(X_REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&request_id())
    {
        headers.insert(X_REQUEST_ID, id);
    }
    client_cert(headers, origin, manager.client_cert);
}

fn client_cert(headers: &mut HeaderMap, origin: Origin<'_>, mode: ClientCert) {
    let keep = match mode {
        ClientCert::AlwaysForwardOnly => return,
        ClientCert::ForwardOnly | ClientCert::AppendForward => origin.principal.is_some(),
        ClientCert::Sanitize | ClientCert::SanitizeSet => false,
    };
    if !keep {
        headers.remove(X_FORWARDED_CLIENT_CERT);
    }
    if matches!(mode, ClientCert::AppendForward | ClientCert::SanitizeSet)
        && let Some(principal) = origin.principal
        && let Ok(value) = HeaderValue::from_str(&format!("URI={principal}"))
    {
        append_to_list(headers, X_FORWARDED_CLIENT_CERT, &value);
    }
}

/// Adds to a comma-separated header.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let mut all: Vec<u8> = Vec::new();
    for part in headers.get_all(&name).iter().chain([value]) {
        if !all.is_empty() {
            all.extend_from_slice(b",");
        }
        all.extend_from_slice(part.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&all) {
        headers.insert(name, joined);
    }
}

/// The URI of an HTTP/2 request for the next hop.
pub fn uri(target: &Target, path_and_query: &str, authority: &str) -> Option<Uri> {
    // HTTP/2 needs an authority; HTTP/1.0 may have had none.
    let authority = if authority.is_empty() {
        "localhost"
    } else {
        authority
    };
    Uri::builder()
        .scheme(target.scheme)
        .authority(authority)
        .path_and_query(path_and_query)
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    fn parts(version: Version, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let (mut parts, ()) = http::Request::builder()
            .uri(uri)
            .version(version)
            .body(())
            .unwrap()
            .into_parts();
        parts.headers = map(headers);
        parts
    }

    #[test]
    fn what_belongs_to_a_hop_is_stripped() {
        let mut headers = map(&[
            ("connection", "close, x-private"),
            ("connection", "Keep-Alive"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("x-kept", "1")]));
    }

    #[test]
    fn a_request_has_one_authority() {
        let cases = [
            (Version::HTTP_11, "/", &[("host", "a")][..], Ok("a")),
            (Version::HTTP_11, "/", &[], Err(Reason::BadRequest)),
            (Version::HTTP_10, "/", &[], Ok("")),
            (
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("host", "a")],
                Err(Reason::BadRequest),
            ),
            (Version::HTTP_11, "http://b/", &[("host", "a")], Ok("b")),
            (Version::HTTP_2, "http://b/", &[("host", "B")], Ok("b")),
            (
                Version::HTTP_2,
                "http://b/",
                &[("host", "a")],
                Err(Reason::BadRequest),
            ),
            (
                Version::HTTP_11,
                "/",
                &[("host", "a b")],
                Err(Reason::BadRequest),
            ),
            (
                Version::HTTP_11,
                "/",
                &[("host", "evil@a")],
                Err(Reason::BadRequest),
            ),
        ];
        for (version, uri, headers, expected) in cases {
            let parts = parts(version, uri, headers);
            assert_eq!(
                authority(&parts),
                expected.map(str::to_owned),
                "{version:?} {uri} {headers:?}"
            );
        }
    }

    #[test]
    fn upgrades_are_seen_and_h2c_is_not_one() {
        let wanted = |list: &[(&str, &str)]| upgrade(&parts(Version::HTTP_11, "/", list));
        assert_eq!(
            wanted(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket")
            ])
            .as_deref(),
            Some("websocket")
        );
        assert_eq!(
            wanted(&[("connection", "upgrade"), ("upgrade", "h2c")]),
            None
        );
        assert_eq!(wanted(&[("upgrade", "websocket")]), None);
    }

    #[test]
    fn client_certificates_of_others_do_not_pass() {
        let origin = |principal| Origin {
            source: [1, 1, 1, 1].into(),
            is_tls: true,
            principal,
        };
        let cases = [
            (ClientCert::Sanitize, Some("spiffe://a"), None),
            (
                ClientCert::SanitizeSet,
                Some("spiffe://a"),
                Some("URI=spiffe://a"),
            ),
            (ClientCert::SanitizeSet, None, None),
            (
                ClientCert::AppendForward,
                Some("spiffe://a"),
                Some("URI=evil,URI=spiffe://a"),
            ),
            (
                ClientCert::ForwardOnly,
                Some("spiffe://a"),
                Some("URI=evil"),
            ),
            (ClientCert::ForwardOnly, None, None),
            (ClientCert::AlwaysForwardOnly, None, Some("URI=evil")),
        ];
        for (mode, principal, expected) in cases {
            let mut headers = map(&[("x-forwarded-client-cert", "URI=evil")]);
            client_cert(&mut headers, origin(principal), mode);
            let found = headers
                .get(X_FORWARDED_CLIENT_CERT)
                .map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{mode:?}");
        }
    }
}
