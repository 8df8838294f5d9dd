//! A request on its way out: headers, path and authority as the upstream is to see them, in Envoy's order.

use std::net::SocketAddr;
use std::time::Instant;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;

use super::facts::Scene;
use super::filters::overrides::Routing;
use super::headers::Target;
use crate::access::Line;
use crate::connection::Connection;
use crate::route::{Forward, HostRewrite, PathMatch};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The path before it was rewritten.
pub const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// What a request's changes may depend on.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// The connection it came on.
    pub connection: &'a Connection,
    /// Its log line so far.
    pub line: &'a Line,
    /// When it began.
    pub started: Instant,
    /// The endpoint, if it is known already.
    pub endpoint: Option<SocketAddr>,
    /// The upstream is not told what was rewritten.
    pub suppress: bool,
}

impl Outgoing<'_> {
    /// Changes of the route: headers, then authority, then path. The endpoint's host name comes later, by
    /// [`Outgoing::address`].
    pub fn prepare(
        &self,
        action: &Forward,
        matched: &PathMatch,
        routing: &Routing<'_>,
        parts: &mut Parts,
        target: &mut Target,
    ) {
        let mut headers = std::mem::take(&mut parts.headers);
        for edits in routing.edits() {
            edits
                .request
                .request(&mut headers, &self.scene(parts, target));
        }
        parts.headers = headers;
        if let Some(host) = routing.weighted.and_then(|cluster| cluster.host.as_ref()) {
            target.authority.clone_from(host);
        }
        if !matches!(action.host_rewrite, HostRewrite::Endpoint) {
            self.address(action, "", parts, target);
        }
        let facts = self.scene(parts, target);
        let path = action
            .path_rewrite
            .apply(matched, &target.path_and_query, &facts);
        if let Some(path) = path {
            let old = std::mem::replace(&mut target.path_and_query, path);
            self.tell(&mut parts.headers, ORIGINAL_PATH, &old);
        }
    }

    /// The authority, where it depends on nothing but the request or is to be that of the endpoint.
    pub fn address(
        &self,
        action: &Forward,
        endpoint: &str,
        parts: &mut Parts,
        target: &mut Target,
    ) {
        let facts = self.scene(parts, target);
        let Some(host) = action.host_rewrite.apply(&facts, endpoint) else {
            return;
        };
        let old = std::mem::replace(&mut target.authority, host);
        if action.append_forwarded_host && !old.is_empty() {
            append(&mut parts.headers, &old);
        }
        self.tell(&mut parts.headers, ORIGINAL_HOST, &old);
    }

    fn tell(&self, headers: &mut HeaderMap, name: HeaderName, old: &str) {
        if let Ok(value) = HeaderValue::from_str(old)
            && !self.suppress
        {
            headers.insert(name, value);
        }
    }

    fn scene<'b>(&'b self, parts: &'b Parts, target: &'b Target) -> Scene<'b> {
        Scene {
            connection: self.connection,
            parts,
            target,
            line: self.line,
            endpoint: self.endpoint,
            started: self.started,
            response: None,
            body: None,
        }
    }
}

/// Adds a host to `x-forwarded-host`, unless it is the last of them already.
fn append(headers: &mut HeaderMap, host: &str) {
    let before = headers
        .get(X_FORWARDED_HOST)
        .and_then(|value| value.to_str().ok())
        .filter(|list| !list.is_empty());
    let list = match before {
        Some(list) if list.rsplit(',').next().map(str::trim) == Some(host) => return,
        Some(list) => format!("{list},{host}"),
        None => host.to_owned(),
    };
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(X_FORWARDED_HOST, value);
    }
}
