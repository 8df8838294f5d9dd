//! A route's conditions.

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
    /// Only gRPC requests.
    pub grpc: bool,
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
}

impl RouteMatch {
    /// Whether the request satisfies all conditions.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let (path, query) = split(request.path_and_query);
        self.path.matches(path)
            && self.headers.iter().all(|header| header.matches(request))
            && self.query.iter().all(|parameter| parameter.matches(query))
            && (!self.grpc || is_grpc(request))
    }
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            PathMatch::Prefix(prefix) => path.starts_with(prefix.as_str()),
            PathMatch::Segments(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            PathMatch::Text(matcher) => matcher.matches(path),
            PathMatch::PrefixNoCase(prefix) => path
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix)),
        }
    }

    /// How much of the path was matched, for a prefix rewrite.
    pub fn matched_length(&self, path: &str) -> usize {
        match self {
            PathMatch::Prefix(prefix)
            | PathMatch::Segments(prefix)
            | PathMatch::PrefixNoCase(prefix) => prefix.len(),
            PathMatch::Text(StringMatch::Exact(exact)) => exact.len(),
            PathMatch::Text(StringMatch::NoCase(Affix::Whole, exact)) => exact.len(),
            PathMatch::Text(_) => path.len(),
        }
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
