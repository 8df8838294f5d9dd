//! Route tables: virtual hosts by domain, routes in order, and what a route does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use crate::matcher::{Affix, HeaderMatch, QueryMatch, RequestView, StringMatch};
use crate::rbac::Rbac;

/// A route configuration.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Its name.
    pub name: Arc<str>,
    /// Changes to headers for all its routes.
    pub edits: Edits,
    /// RBAC for all its routes.
    pub rbac: Option<RbacOverride>,
    /// Ports are cut off the authority before a host is looked for.
    pub ignore_port: bool,
    hosts: Vec<VirtualHost>,
    index: HostIndex,
}

/// A virtual host.
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Lower case; `*`, `*suffix`, `prefix*` or exact.
    pub domains: Vec<String>,
    /// Tried in order.
    pub routes: Vec<Arc<Route>>,
    /// Changes to headers for all its routes.
    pub edits: Edits,
    /// RBAC for all its routes.
    pub rbac: Option<RbacOverride>,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Its name, which carries the provenance.
    pub name: Arc<str>,
    /// Conditions.
    pub condition: RouteMatch,
    /// What it does.
    pub action: Action,
    /// Changes to headers.
    pub edits: Edits,
    /// RBAC of its own.
    pub rbac: Option<RbacOverride>,
}

/// RBAC that a route, host or table puts in the filter's place; `None` switches the filter off.
pub type RbacOverride = Option<Arc<Rbac>>;

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

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Sends the request on.
    Forward(Box<Forward>),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers.
    Respond(u16, bytes::Bytes),
}

/// Where and how a request is sent on.
#[derive(Debug)]
pub struct Forward {
    /// The cluster, or several with weights.
    pub target: Target,
    /// For the whole answer; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// Without a byte in either direction; `None` leaves it to the connection manager.
    pub idle_timeout: Option<Duration>,
    /// Replaces the matched prefix.
    pub prefix_rewrite: Option<String>,
    /// Replaces the authority.
    pub host_rewrite: HostRewrite,
    /// Keeps the replaced authority in `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// Upgrades allowed or forbidden here, lower case.
    pub upgrades: Vec<(String, bool)>,
    /// Status when the cluster does not exist.
    pub not_found: u16,
}

/// The authority the upstream sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRewrite {
    /// The client's.
    Keep,
    /// This one.
    Literal(String),
    /// The endpoint's host name.
    Endpoint,
}

/// One cluster or several.
#[derive(Debug)]
pub enum Target {
    /// One.
    Cluster(Arc<str>),
    /// Several; the total is positive.
    Weighted {
        /// Sum of the weights.
        total: u32,
        /// Clusters with their weights.
        clusters: Vec<WeightedCluster>,
    },
}

/// A cluster with its share.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Changes to headers.
    pub edits: Edits,
}

/// A redirect.
#[derive(Debug)]
pub struct Redirect {
    /// Scheme, if it changes.
    pub scheme: Option<String>,
    /// Host, if it changes.
    pub host: Option<String>,
    /// Port, if it changes.
    pub port: Option<u16>,
    /// Path (and query) in place of the request's.
    pub path: Option<String>,
    /// In place of the matched prefix.
    pub prefix: Option<String>,
    /// Status.
    pub status: u16,
    /// Without the query.
    pub strip_query: bool,
}

/// Changes to headers.
#[derive(Debug, Default)]
pub struct Edits {
    /// Removed from requests, before anything is added.
    pub request_remove: Vec<HeaderName>,
    /// Added to requests.
    pub request_add: Vec<HeaderAdd>,
    /// Removed from responses.
    pub response_remove: Vec<HeaderName>,
    /// Added to responses.
    pub response_add: Vec<HeaderAdd>,
}

/// A header to be added.
#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// How it meets one that is there.
    pub mode: AddMode,
}

/// How an added header meets one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddMode {
    /// Beside it.
    Append,
    /// Only if there is none.
    IfAbsent,
    /// In its place.
    Overwrite,
    /// In its place, only if there is one.
    OverwriteIfPresent,
}

/// A route that was found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// In this host.
    pub host: &'a VirtualHost,
    /// This route.
    pub route: &'a Arc<Route>,
}

#[derive(Debug, Default)]
struct HostIndex {
    exact: HashMap<String, usize>,
    /// Suffixes (without the star), longest first.
    suffixes: Vec<(String, usize)>,
    /// Prefixes (without the star), longest first.
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
}

// === impl RouteTable ===

impl RouteTable {
    /// A table over virtual hosts; `Err` names a domain that two of them claim.
    pub fn new(name: Arc<str>, hosts: Vec<VirtualHost>) -> Result<RouteTable, String> {
        let mut index = HostIndex::default();
        for (position, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                if !index.insert(domain, position) {
                    return Err(domain.clone());
                }
            }
        }
        index
            .suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        index
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(RouteTable {
            name,
            hosts,
            index,
            ..RouteTable::default()
        })
    }

    /// The virtual host for an authority.
    pub fn host(&self, authority: &str) -> Option<&VirtualHost> {
        let lower = authority.to_ascii_lowercase();
        let host = if self.ignore_port {
            without_port(&lower)
        } else {
            &lower
        };
        self.index
            .find(host)
            .and_then(|position| self.hosts.get(position))
    }

    /// The first route of the authority's host whose conditions hold.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let host = self.host(request.authority)?;
        let route = host
            .routes
            .iter()
            .find(|route| route.condition.matches(request))?;
        Some(Found { host, route })
    }

    /// All virtual hosts.
    pub fn hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }
}

impl HostIndex {
    fn insert(&mut self, domain: &str, position: usize) -> bool {
        if domain == "*" {
            return self.any.replace(position).is_none();
        }
        let list = if let Some(suffix) = domain.strip_prefix('*') {
            (&mut self.suffixes, suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (&mut self.prefixes, prefix)
        } else {
            return self.exact.insert(domain.to_owned(), position).is_none();
        };
        let (list, pattern) = list;
        if list.iter().any(|(known, _)| known == pattern) {
            return false;
        }
        list.push((pattern.to_owned(), position));
        true
    }

    fn find(&self, host: &str) -> Option<usize> {
        let exact = self.exact.get(host).copied();
        // A star stands for at least one character.
        let suffix = || {
            self.suffixes
                .iter()
                .find(|(s, _)| host.len() > s.len() && host.ends_with(s.as_str()))
        };
        let prefix = || {
            self.prefixes
                .iter()
                .find(|(p, _)| host.len() > p.len() && host.starts_with(p.as_str()))
        };
        exact
            .or_else(|| suffix().map(|(_, at)| *at))
            .or_else(|| prefix().map(|(_, at)| *at))
            .or(self.any)
    }
}

/// The authority without its port, IPv6 literals included.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

// === impl RouteMatch ===

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

// === impl Target ===

impl Target {
    /// Chooses a cluster; `roll` is any number, even in distribution.
    pub fn pick(&self, roll: u64) -> Option<(&Arc<str>, Option<&Edits>)> {
        match self {
            Target::Cluster(name) => Some((name, None)),
            Target::Weighted { total, clusters } => {
                let mut at = roll.checked_rem(u64::from(*total))?;
                for cluster in clusters {
                    let weight = u64::from(cluster.weight);
                    if at < weight {
                        return Some((&cluster.name, Some(&cluster.edits)));
                    }
                    at = at.saturating_sub(weight);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
