//! Route tables: virtual hosts by domain, routes in order, and what a route does.

mod action;
mod condition;
mod edits;
mod hosts;
mod order;
mod redirect;
mod rewrite;

pub use action::{Action, Forward, Lot, Respond, StreamDuration, Target, WeightedCluster};
pub use condition::{
    Certificate, Client, CookieMatch, Fraction, PathMatch, RouteMatch, is_grpc, is_grpc_type, split,
};
pub use edits::{AddMode, Edits, HeaderAdd, HeaderText, Mutations};
pub use hosts::{port_of, without_port};
pub use order::Routes;
pub use redirect::{PathRedirect, Redirect};
pub use rewrite::{HostRewrite, PathRewrite, Substitution};

use std::sync::Arc;

use http::HeaderName;

use crate::http::filters::cors::CorsPolicy;
use crate::http::filters::descriptors::RateLimitPolicy;
use crate::http::filters::overrides::Overrides;
use crate::matcher::RequestView;
use crate::spans::RouteTracing;
use hosts::{HostIndex, lower};

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// A route configuration.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Its name.
    pub name: Arc<str>,
    /// Changes to headers for all its routes.
    pub edits: Edits,
    /// What its routes say about filters, if they do not say it themselves.
    pub overrides: Overrides,
    /// Ports are cut off the authority before a host is looked for.
    pub ignore_port: bool,
    /// What follows a `;` in the path is cut off before a route is looked for.
    pub ignore_path_parameters: bool,
    /// Changes to headers are made by the table first and by the route last.
    pub most_specific_wins: bool,
    /// Callers of the mesh who ask are told why they are refused: `reason_header` of the metadata `osm`.
    pub tells_reasons: bool,
    /// Headers that requests from outside lose.
    pub internal_headers: Vec<HeaderName>,
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
    pub routes: Routes,
    /// Changes to headers for all its routes.
    pub edits: Edits,
    /// What its routes say about filters, if they do not say it themselves.
    pub overrides: Overrides,
    /// Where requests without TLS are sent.
    pub https: Option<RequireTls>,
    /// The upstream is told the number of the attempt.
    pub attempts_in_request: bool,
    /// The client is told how many attempts there were.
    pub attempts_in_response: bool,
    /// The upstream is told that the attempt before ran out of time.
    pub timeout_retries_told: bool,
    /// What requests count for at rate limits.
    pub rate_limits: Vec<RateLimitPolicy>,
    /// Who may read its responses.
    pub cors: Option<CorsPolicy>,
}

/// A virtual host's demand for TLS.
#[derive(Debug)]
pub struct RequireTls {
    /// Requests from inside are exempt.
    pub external_only: bool,
    /// The route to HTTPS.
    pub redirect: Arc<Route>,
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
    /// What it says about filters.
    pub overrides: Overrides,
    /// What it says about traces.
    pub tracing: Option<Box<RouteTracing>>,
}

/// A route that was found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// In this host.
    pub host: &'a VirtualHost,
    /// This route.
    pub route: &'a Arc<Route>,
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
        Ok(RouteTable {
            name,
            hosts,
            index,
            ..RouteTable::default()
        })
    }

    /// The virtual host for an authority.
    pub fn host(&self, authority: &str) -> Option<&VirtualHost> {
        let authority = if self.ignore_port {
            without_port(authority)
        } else {
            authority
        };
        self.index
            .find(&lower(authority))
            .and_then(|position| self.hosts.get(position))
    }

    /// The first route of the authority's host whose conditions hold.
    pub fn find(&self, request: &RequestView<'_>, client: &Client) -> Option<Found<'_>> {
        let host = self.host(request.authority)?;
        if let Some(https) = &host.https
            && https.concerns(request)
        {
            let route = &https.redirect;
            return Some(Found { host, route });
        }
        let (mut path, _) = split(request.path_and_query);
        if self.ignore_path_parameters {
            path = path.split(';').next().unwrap_or(path);
        }
        let route = host
            .routes
            .find(path, |route| route.condition.matches(path, request, client))?;
        Some(Found { host, route })
    }

    /// All virtual hosts.
    pub fn hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }

    /// Changes to headers of a request that took this route, in the order in which they are made.
    pub fn edits<'a>(
        &'a self,
        found: &Found<'a>,
        weighted: Option<&'a WeightedCluster>,
    ) -> impl Iterator<Item = &'a Edits> + use<'a> {
        let mut levels = [&found.route.edits, &found.host.edits, &self.edits];
        if self.most_specific_wins {
            levels.reverse();
        }
        // The cluster's come first in either order, as in Envoy.
        weighted
            .map(|cluster| &cluster.edits)
            .into_iter()
            .chain(levels)
    }
}

impl RequireTls {
    fn concerns(&self, request: &RequestView<'_>) -> bool {
        let is = |name: &HeaderName, text: &str| {
            let value = request.headers.get(name);
            value.is_some_and(|value| value.as_bytes() == text.as_bytes())
        };
        let is_tls = is(&X_FORWARDED_PROTO, "https")
            || (request.scheme == "https" && !request.headers.contains_key(X_FORWARDED_PROTO));
        let is_exempt = self.external_only && is(&X_ENVOY_INTERNAL, "true");
        !(is_tls || is_exempt)
    }
}

#[cfg(test)]
mod tests;
