//! Headers between the hops: what is refused, what is stripped, what is added.

use std::net::IpAddr;

use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Uri, Version};

use super::edge::{Edge, Origin};
use super::path::{Normal, PathRules};
use crate::matcher::RequestView;
use crate::reason::Reason;
use crate::route::{port_of, without_port};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// The id by which a request is found in all logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a request is, once it is sane.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The authority as the client gave it; empty in HTTP/1.0 without Host.
    pub authority: String,
    /// Normal path, and query.
    pub path_and_query: String,
    /// By the connection.
    pub scheme: &'static str,
    /// The protocol the client wants to switch to, lower case.
    pub upgrade: Option<String>,
    /// The client's address, where forwarding headers are believed and name one.
    pub remote: Option<IpAddr>,
    /// It comes from inside: headers by which clients steer the proxy are believed.
    pub is_internal: bool,
}

/// What is done about requests' heads.
#[derive(Debug, Clone, Default)]
pub struct HeadRules {
    /// What is done to paths.
    pub paths: PathRules,
    /// What is done about names with underscores.
    pub underscores: Underscores,
    /// Which port is cut off the authority.
    pub strip_port: StripPort,
    /// A dot behind the host is cut off.
    pub strip_dot: bool,
    /// The authority of requests in HTTP/1.0 that have none.
    pub default_host: Box<str>,
}

/// What is done about header names with underscores, which some servers take for those with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// The header is dropped.
    Drop,
}

/// Which port is cut off the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StripPort {
    /// None.
    #[default]
    None,
    /// The one the connection was going to.
    Matching,
    /// Any.
    Any,
}

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It is refused.
    Refused(Reason),
    /// It is refused as what could not be read at all.
    Unread,
    /// The client is to ask for another path.
    Elsewhere(String),
}

impl From<Reason> for Unfit {
    fn from(reason: Reason) -> Unfit {
        Unfit::Refused(reason)
    }
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
    rules: &HeadRules,
    edge: &Edge,
) -> Result<Target, Unfit> {
    // Both would let two hops read two different requests: RFC 9112 §6.3.
    if parts.headers.contains_key(TRANSFER_ENCODING) && parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(Reason::BadRequest.into());
    }
    let upgrade = upgrade(parts);
    let authority = authority(parts)?.unwrap_or_else(|| rules.default_host.to_string());
    let authority = rules.authority(authority, origin.port);
    if parts.method == Method::CONNECT && upgrade.is_none() {
        return Err(Reason::RouteNotFound.into()); // No route takes CONNECT.
    }
    let path_and_query = rules.path(parts).map_err(|unfit| match unfit {
        // What begins with two slashes would name another host.
        Unfit::Elsewhere(path) if path.starts_with("//") => {
            let scheme = if origin.is_tls { "https" } else { "http" };
            Unfit::Elsewhere(format!("{scheme}://{authority}{path}"))
        }
        unfit => unfit,
    })?;
    rules.names(&mut parts.headers)?;
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(HOST);
    if parts.version == Version::HTTP_2 {
        join_crumbs(&mut parts.headers);
    }
    // The connection answers it when the body is first read.
    parts.headers.remove(EXPECT);
    let sender = edge.receive(&mut parts.headers, origin);
    let scheme = scheme(parts);
    Ok(Target {
        authority,
        path_and_query,
        scheme,
        upgrade,
        remote: Some(sender.address),
        is_internal: sender.is_internal,
    })
}

impl HeadRules {
    /// Path and query in their normal form.
    fn path(&self, parts: &Parts) -> Result<String, Unfit> {
        let Some(whole) = parts.uri.path_and_query() else {
            return Ok("/".to_owned());
        };
        if whole.path() == "*" && parts.method == Method::OPTIONS {
            return Ok("*".to_owned());
        }
        let with_query = |path: &str| match whole.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        match self.paths.apply(whole.path()) {
            Some(Normal::Path(path)) => Ok(with_query(&path)),
            Some(Normal::Redirect(path)) => Err(Unfit::Elsewhere(with_query(&path))),
            None => Err(Reason::BadRequest.into()),
        }
    }

    fn authority(&self, mut authority: String, port: u16) -> String {
        let cut = match (self.strip_port, port_of(&authority)) {
            (StripPort::Any, Some((host, _))) => Some(host.len()),
            (StripPort::Matching, Some((host, text))) => {
                (text.parse() == Ok(port)).then_some(host.len())
            }
            (_, None) | (StripPort::None, _) => None,
        };
        authority.truncate(cut.unwrap_or(usize::MAX));
        if self.strip_dot {
            let host = without_port(&authority).len();
            if authority
                .get(..host)
                .is_some_and(|host| host.ends_with('.'))
            {
                authority.remove(host.saturating_sub(1));
            }
        }
        authority
    }

    fn names(&self, headers: &mut HeaderMap) -> Result<(), Unfit> {
        let odd = |name: &&HeaderName| name.as_str().contains('_');
        match self.underscores {
            Underscores::Allow => {}
            Underscores::Reject if headers.keys().any(|name| odd(&name)) => {
                return Err(Unfit::Unread);
            }
            Underscores::Reject => {}
            Underscores::Drop => {
                let names: Vec<HeaderName> = headers.keys().filter(odd).cloned().collect();
                for name in names {
                    headers.remove(name);
                }
            }
        }
        Ok(())
    }
}

/// As Envoy: the scheme the request names, else the one the client used with the first proxy it met.
fn scheme(parts: &Parts) -> &'static str {
    let named = match parts.uri.scheme_str() {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => Some("https"),
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => Some("http"),
        _ => None,
    };
    named.unwrap_or_else(|| {
        let forwarded = parts.headers.get("x-forwarded-proto");
        match forwarded.is_some_and(|proto| proto == "https") {
            true => "https",
            false => "http",
        }
    })
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
fn authority(parts: &Parts) -> Result<Option<String>, Unfit> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Reason::BadRequest.into()), // RFC 9112 §3.2
        (Some(host), None) => Some(host.to_str().map_err(|_| Unfit::Unread)?),
        (None, None) => None,
    };
    let from_uri = parts.uri.authority().map(|authority| authority.as_str());
    let chosen = match (from_uri, host) {
        // RFC 9113 §8.3.1: they must not differ.
        (Some(uri), Some(host))
            if parts.version == Version::HTTP_2 && !uri.eq_ignore_ascii_case(host) =>
        {
            return Err(Reason::BadRequest.into());
        }
        (Some(uri), _) => uri, // RFC 9112 §3.2.2: the absolute form wins.
        (None, Some(host)) => host,
        (None, None) if parts.version < Version::HTTP_11 => return Ok(None),
        (None, None) => return Err(Reason::MissingHost.into()),
    };
    let valid = chosen
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"@/?#\\\"<>^`{|}".contains(&byte));
    if valid {
        Ok(Some(chosen.to_owned()))
    } else {
        Err(Unfit::Unread)
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
        let refused = Err(Unfit::Refused(Reason::BadRequest));
        let cases = [
            (Version::HTTP_11, "/", &[("host", "a")][..], Ok(Some("a"))),
            (
                Version::HTTP_11,
                "/",
                &[],
                Err(Unfit::Refused(Reason::MissingHost)),
            ),
            (Version::HTTP_10, "/", &[], Ok(None)),
            (
                Version::HTTP_11,
                "/",
                &[("host", "a"), ("host", "a")],
                refused.clone(),
            ),
            (
                Version::HTTP_11,
                "http://b/",
                &[("host", "a")],
                Ok(Some("b")),
            ),
            (
                Version::HTTP_2,
                "http://b/",
                &[("host", "B")],
                Ok(Some("b")),
            ),
            (
                Version::HTTP_2,
                "http://b/",
                &[("host", "a")],
                refused.clone(),
            ),
            (
                Version::HTTP_11,
                "/",
                &[("host", "a b")],
                Err(Unfit::Unread),
            ),
            (
                Version::HTTP_11,
                "/",
                &[("host", "evil@a")],
                Err(Unfit::Unread),
            ),
        ];
        for (version, uri, headers, expected) in cases {
            let parts = parts(version, uri, headers);
            assert_eq!(
                authority(&parts),
                expected.map(|host| host.map(str::to_owned)),
                "{version:?} {uri} {headers:?}"
            );
        }
    }

    #[test]
    fn a_scheme_is_what_the_request_names_else_what_was_forwarded() {
        let https = &[("x-forwarded-proto", "https")][..];
        let cases = [
            (Version::HTTP_2, "http://a/", https, "http"),
            (Version::HTTP_2, "https://a/", &[], "https"),
            (Version::HTTP_2, "ftp://a/", https, "https"),
            (Version::HTTP_11, "/", https, "https"),
            (Version::HTTP_11, "http://a/", https, "http"),
            (Version::HTTP_11, "/", &[], "http"),
        ];
        for (version, uri, headers, expected) in cases {
            let found = scheme(&parts(version, uri, headers));
            assert_eq!(found, expected, "{version:?} {uri} {headers:?}");
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
    fn authorities_lose_what_is_to_be_cut_off() {
        let rules = |strip_port, strip_dot| HeadRules {
            strip_port,
            strip_dot,
            ..HeadRules::default()
        };
        let cases = [
            (StripPort::None, false, "web.:80", "web.:80"),
            (StripPort::Matching, false, "web:80", "web"),
            (StripPort::Matching, false, "web:81", "web:81"),
            (StripPort::Any, false, "web:81", "web"),
            (StripPort::Any, false, "[::1]:81", "[::1]"),
            (StripPort::Any, false, "[::1]", "[::1]"),
            (StripPort::None, true, "web.:80", "web:80"),
            (StripPort::Any, true, "web.:80", "web"),
            (StripPort::None, true, "web.", "web"),
        ];
        for (port, dot, authority, expected) in cases {
            let found = rules(port, dot).authority(authority.to_owned(), 80);
            assert_eq!(found, expected, "{port:?} {dot} {authority}");
        }
    }

    #[test]
    fn names_with_underscores_pass_or_do_not() {
        let cases = [
            (Underscores::Allow, Ok(2)),
            (Underscores::Drop, Ok(1)),
            (Underscores::Reject, Err(Unfit::Unread)),
        ];
        for (underscores, expected) in cases {
            let rules = HeadRules {
                underscores,
                ..HeadRules::default()
            };
            let mut headers = map(&[("a_b", "1"), ("a-b", "1")]);
            let found = rules.names(&mut headers).map(|()| headers.len());
            assert_eq!(found, expected, "{underscores:?}");
        }
    }
}
