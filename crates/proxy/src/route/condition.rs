//! A route's conditions.

use std::net::SocketAddr;

use crate::matcher::{Affix, HeaderMatch, QueryMatch, RequestView, StringMatch};

/// A route's conditions, all of which must hold.
#[derive(Debug)]
pub struct RouteMatch {
    /// On the path without query.
    pub path: PathMatch,
    /// On headers.
    pub headers: Vec<HeaderMatch>,
    /// On query parameters.
    pub query: Vec<QueryMatch>,
    /// On cookies.
    pub cookies: Vec<CookieMatch>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// Only a share of the requests.
    pub fraction: Option<Fraction>,
    /// On the client's certificate: that it gave one, and that it was verified.
    pub certificate: Certificate<Option<bool>>,
}

/// A condition on the path.
#[derive(Debug)]
pub enum PathMatch {
    /// It begins so.
    Prefix(String),
    /// As prefix, but whole segments only.
    Segments(String),
    /// Exactly, by regular expression, or either without regard to case.
    Text(StringMatch),
    /// It begins so, without regard to case; lower case.
    PrefixNoCase(String),
    /// As segments, without regard to case; lower case.
    SegmentsNoCase(String),
    /// There is none: a CONNECT request.
    Connect,
}

/// A condition on a cookie.
#[derive(Debug)]
pub struct CookieMatch {
    /// The cookie's name.
    pub name: String,
    /// The condition on its value.
    pub value: StringMatch,
    /// The outcome is inverted.
    pub invert: bool,
}

/// A share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// So many…
    pub numerator: u32,
    /// … of a hundred, ten thousand or a million.
    pub denominator: u32,
}

/// What is known, or demanded, of a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Certificate<T> {
    /// It gave one.
    pub presented: T,
    /// It was verified.
    pub validated: T,
}

/// What a route may depend on besides the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Client {
    /// Its certificate.
    pub certificate: Certificate<bool>,
    /// Any number, even in distribution.
    pub roll: u64,
    /// Its address, and the one it was going to; hash policies may want them.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

// === impl RouteMatch ===

impl RouteMatch {
    /// Conditions on the path only.
    pub fn path(path: PathMatch) -> RouteMatch {
        RouteMatch {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            grpc: false,
            fraction: None,
            certificate: Certificate::default(),
        }
    }

    /// Whether the request satisfies all conditions; `path` is its path as routes are to see it.
    pub fn matches(&self, path: &str, request: &RequestView<'_>, client: &Client) -> bool {
        let holds = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        let is_connect = request.method == "CONNECT";
        (is_connect == matches!(self.path, PathMatch::Connect))
            && self.path.matches(path)
            && self.headers.iter().all(|header| header.matches(request))
            && self.query_matches(request)
            && self.cookies.iter().all(|cookie| cookie.matches(request))
            && (!self.grpc || is_grpc(request))
            && self.fraction.is_none_or(|share| share.takes(client.roll))
            && holds(self.certificate.presented, client.certificate.presented)
            && holds(self.certificate.validated, client.certificate.validated)
    }

    fn query_matches(&self, request: &RequestView<'_>) -> bool {
        if self.query.is_empty() {
            return true;
        }
        let (_, query) = split(request.path_and_query);
        self.query.iter().all(|parameter| parameter.matches(query))
    }
}

// === impl PathMatch ===

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            PathMatch::Prefix(prefix) => path.starts_with(prefix.as_str()),
            PathMatch::Segments(prefix) => path.strip_prefix(prefix.as_str()).is_some_and(at_end),
            PathMatch::Text(matcher) => matcher.matches(path),
            PathMatch::PrefixNoCase(prefix) => without(path, prefix).is_some(),
            PathMatch::SegmentsNoCase(prefix) => without(path, prefix).is_some_and(at_end),
            PathMatch::Connect => true,
        }
    }

    /// How much of the path was matched, for a prefix rewrite.
    pub fn matched_length(&self, path: &str) -> usize {
        match self {
            PathMatch::Prefix(prefix)
            | PathMatch::Segments(prefix)
            | PathMatch::PrefixNoCase(prefix)
            | PathMatch::SegmentsNoCase(prefix) => prefix.len(),
            PathMatch::Text(StringMatch::Exact(exact)) => exact.len(),
            PathMatch::Text(StringMatch::NoCase(Affix::Whole, exact)) => exact.len(),
            PathMatch::Text(_) | PathMatch::Connect => path.len(),
        }
    }

    /// The one path that matches, if there is only one.
    pub(super) fn exact(&self) -> Option<&str> {
        match self {
            PathMatch::Text(StringMatch::Exact(exact)) => Some(exact),
            _ => None,
        }
    }

    /// The first segment of every path that matches, if they have it in common.
    pub(super) fn first_segment(&self) -> Option<&str> {
        match self {
            // `/a` is a prefix of `/ab` too: only a second slash ends the segment.
            PathMatch::Prefix(prefix) => prefix.strip_prefix('/')?.split_once('/').map(|(s, _)| s),
            PathMatch::Segments(prefix) => first_segment(prefix),
            _ => None,
        }
    }
}

/// The first segment of a path.
pub(super) fn first_segment(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next()
}

fn at_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

/// What follows a prefix, without regard to case.
fn without<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = path.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

// === impl CookieMatch, Fraction ===

impl CookieMatch {
    fn matches(&self, request: &RequestView<'_>) -> bool {
        let cookies = request.headers.get_all(http::header::COOKIE).iter();
        let found = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .find(|(name, _)| *name == self.name);
        let matched = found.is_some_and(|(_, value)| self.value.matches(value.trim_matches('"')));
        matched != self.invert
    }
}

impl Fraction {
    /// Whether a lot falls into the share.
    pub fn takes(self, roll: u64) -> bool {
        // The upper half: weighted clusters draw with the lower one, and both draws must not be the same.
        let draw = (roll >> 32).checked_rem(u64::from(self.denominator));
        draw.is_some_and(|draw| draw < u64::from(self.numerator))
    }
}

/// Path and query; a fragment belongs to neither.
pub fn split(path_and_query: &str) -> (&str, &str) {
    let whole = path_and_query.split('#').next().unwrap_or_default();
    whole.split_once('?').unwrap_or((whole, ""))
}

/// Whether a request is gRPC by its content type.
pub fn is_grpc(request: &RequestView<'_>) -> bool {
    request
        .headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| is_grpc_type(value.as_bytes()))
}

/// `application/grpc`, alone or with a suffix or parameters.
pub fn is_grpc_type(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
