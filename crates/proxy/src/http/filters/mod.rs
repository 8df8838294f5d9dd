//! HTTP filters: what a request passes in order before the router, and its response in reverse order.
//!
//! A filter is a value of [`HttpFilter`], made when configuration arrives. A request runs through [`request`]: each
//! filter may change the request's head, wait for somebody else's answer, leave state in the [`Passage`] for the
//! response, or answer itself with a [`LocalReply`]. Every response, local or not, then runs through [`response`].
//! Routes override filters by their *name*: [`overrides`]. Filters of others plug in by [`extension`].

pub mod buffer;
pub mod cors;
pub mod counters;
pub mod descriptors;
pub mod ext_authz;
pub mod extension;
pub mod facts;
pub mod fault;
pub mod header_mutation;
pub mod headers;
pub mod health_check;
pub mod local_rate_limit;
pub mod overrides;
pub mod rate_limit;
pub mod rbac;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use self::cors::Cors;
use self::descriptors::{Descriptor, DescriptorFacts, HostLimits, RateLimitPolicy, descriptors};
use self::ext_authz::ExtAuthz;
use self::extension::Extension;
use self::fault::{ActiveFault, Fault};
use self::header_mutation::{Head, HeaderMutation};
use self::headers::Additions;
use self::health_check::HealthCheck;
use self::local_rate_limit::LocalRateLimit;
use self::overrides::Routing;
use self::rate_limit::RateLimit;
use super::headers::Target;
use super::reply::LocalReply;
use super::router::client;
use crate::access::Line;
use crate::connection::Connection;
use crate::matcher::RequestView;
use crate::rbac::Rules;
use crate::reason::Reason;
use crate::route::Action;
use crate::stats::Stats;

/// A filter in its place.
#[derive(Debug)]
pub struct Filter {
    /// The name routes override it by.
    pub name: Arc<str>,
    /// Off, unless a route turns it on.
    pub disabled: bool,
    /// What it is.
    pub kind: HttpFilter,
}

/// What a filter is.
#[derive(Debug)]
pub enum HttpFilter {
    /// RBAC over requests.
    Rbac(Rules),
    /// Changes to headers and query parameters.
    HeaderMutation(HeaderMutation),
    /// CORS, as routes say.
    Cors(Cors),
    /// Faults that are injected.
    Fault(Box<Fault>),
    /// Health checks that the proxy answers itself.
    HealthCheck(HealthCheck),
    /// Token buckets of this proxy.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// A rate limit service.
    RateLimit(Box<RateLimit>),
    /// An authorization service.
    ExtAuthz(Box<ExtAuthz>),
    /// Whole bodies only, of so many bytes at most.
    Buffer(usize),
    /// Somebody else's.
    Extension(Arc<dyn Extension>),
}

/// A request on its way through the filters.
pub struct FilterContext<'a, 'r> {
    /// The connection it came on.
    pub connection: &'a Arc<Connection>,
    /// Its head, without `host` and what belongs to the hop.
    pub parts: &'a mut Parts,
    /// Authority and path, which filters may change.
    pub target: &'a mut Target,
    /// Its log line.
    pub line: &'a mut Line,
    /// Its route, as far as there is one.
    pub routing: Routing<'r>,
    /// Its body, not read yet.
    pub body: &'a mut dyn Buffer,
    /// What is to be held until the request is over.
    pub holds: &'a mut Vec<Hold>,
    /// It is gRPC by its content type.
    pub is_grpc: bool,
}

/// A response on its way back through the filters.
pub struct ResponseContext<'a, 'r> {
    /// Its status.
    pub status: &'a mut StatusCode,
    /// Its headers.
    pub headers: &'a mut HeaderMap,
    /// The request's route.
    pub routing: &'a Routing<'r>,
    /// The filter's own state, if its request left any.
    pub state: Option<State>,
}

/// What filters leave for the response to their request.
#[derive(Debug, Default)]
pub struct Passage(Vec<(usize, State)>);

/// What one filter leaves.
#[derive(Debug)]
pub enum State {
    /// Headers of the response.
    Headers(Additions),
    /// The request's head, for values of the response's headers.
    Head(Box<Head>),
    /// Of an extension.
    Extension(extension::State),
}

/// What a filter holds until a request is over.
#[derive(Debug)]
pub enum Hold {
    /// A fault under way.
    Fault(ActiveFault),
}

/// Why a request goes no further: the reply to it. Boxed, because it is rare and large.
pub type Verdict = Result<Option<State>, Box<LocalReply>>;

/// A request's body for filters that must see it. What they saw is sent to the upstream all the same.
pub trait Buffer: Send {
    /// There is none, or all of it was read.
    fn is_end(&self) -> bool;

    /// Announces the length of a body that is held whole, where its sender did not.
    fn settle(&mut self) {}

    /// Reads until `limit` bytes are held or the body ends.
    fn buffer<'a>(
        &'a mut self,
        limit: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Buffered, Reason>> + Send + 'a>>;
}

/// The beginning of a body.
#[derive(Debug, Clone, Default)]
pub struct Buffered {
    /// Its bytes; may be more than asked for, by what came in one piece.
    pub bytes: Bytes,
    /// That is all of it.
    pub whole: bool,
}

// === impl FilterContext ===

impl FilterContext<'_, '_> {
    /// The request as matchers see it.
    pub fn view(&self) -> RequestView<'_> {
        self.target.view(&self.parts.method, &self.parts.headers)
    }

    /// The proxy's statistics.
    pub fn stats(&self) -> &Stats {
        &self.connection.worker.shared.stats
    }

    /// Finds the route anew: the request has changed.
    pub fn reroute(&mut self) {
        let client = client(self.connection);
        self.routing = Routing::find(self.routing.table, &self.view(), &client);
    }

    /// The cluster of the route, if it is configured: its name is bounded by the configuration.
    pub fn cluster(&self) -> Option<&Arc<str>> {
        let name = self.routing.cluster?;
        let snapshot = self.connection.worker.shared.snapshot.load();
        snapshot.clusters.contains_key(name).then_some(name)
    }

    /// The descriptors of the request: of these policies or, without any, of its route and virtual host.
    pub fn descriptors(
        &self,
        policies: &[RateLimitPolicy],
        host_limits: HostLimits,
        stage: u32,
    ) -> Vec<Descriptor> {
        let facts = DescriptorFacts {
            request: self.view(),
            remote: self.remote(),
            source_cluster: self.connection.worker.shared.service_cluster(),
            destination_cluster: self.routing.cluster,
        };
        if !policies.is_empty() {
            let made = policies
                .iter()
                .filter_map(|policy| policy.descriptor(&facts));
            return made.collect();
        }
        let Some(found) = self.routing.found else {
            return Vec::new();
        };
        let Action::Forward(forward) = &found.route.action else {
            return Vec::new();
        };
        let host_limits = match forward.include_host_rate_limits {
            true => HostLimits::Include,
            false => host_limits,
        };
        let host = &found.host.rate_limits;
        descriptors(&forward.rate_limits, host, host_limits, stage, &facts)
    }

    /// The client's address: the connection's or, where forwarding headers are believed, what they say.
    pub fn remote(&self) -> IpAddr {
        let direct = self.connection.peer.source;
        self.target.remote.unwrap_or(direct)
    }
}

/// Runs the request through the filters, in order.
pub async fn request(
    filters: &[Filter],
    context: &mut FilterContext<'_, '_>,
    passage: &mut Passage,
) -> Result<(), Box<LocalReply>> {
    for (index, filter) in filters.iter().enumerate() {
        if context.routing.is_off(filter) {
            continue;
        }
        let name = &*filter.name;
        // Boxed: what waits for others must not make every request's task as large as itself.
        let state = match &filter.kind {
            HttpFilter::Rbac(rules) => rbac::request(name, rules, context)?,
            HttpFilter::HeaderMutation(filter) => header_mutation::request(name, filter, context),
            HttpFilter::Cors(filter) => cors::request(name, filter, context)?,
            HttpFilter::Fault(filter) => Box::pin(fault::request(name, filter, context)).await?,
            HttpFilter::HealthCheck(filter) => health_check::request(filter, context)?,
            HttpFilter::LocalRateLimit(config) => local_rate_limit::request(name, config, context)?,
            HttpFilter::RateLimit(filter) => {
                Box::pin(rate_limit::request(name, filter, context)).await?
            }
            HttpFilter::ExtAuthz(filter) => {
                Box::pin(ext_authz::request(name, filter, context)).await?
            }
            HttpFilter::Buffer(limit) => Box::pin(buffer::request(name, *limit, context)).await?,
            HttpFilter::Extension(extension) => {
                Box::pin(extension::request(extension.as_ref(), name, context)).await?
            }
        };
        if let Some(state) = state {
            passage.0.push((index, state));
        }
    }
    Ok(())
}

/// Runs the response through the filters, in reverse order; also those its request did not come to.
pub fn response(
    filters: &[Filter],
    passage: &mut Passage,
    routing: &Routing<'_>,
    (status, headers): (&mut StatusCode, &mut HeaderMap),
) {
    for (index, filter) in filters.iter().enumerate().rev() {
        if routing.is_off(filter) {
            continue;
        }
        let mut context = ResponseContext {
            status,
            headers,
            routing,
            state: passage.take(index),
        };
        match &filter.kind {
            HttpFilter::HeaderMutation(mutation) => {
                header_mutation::response(&filter.name, mutation, &mut context);
            }
            HttpFilter::Extension(extension) => {
                extension::response(extension.as_ref(), &filter.name, &mut context);
            }
            _ => {
                if let Some(State::Headers(additions)) = context.state.take() {
                    headers::apply(additions, context.headers);
                }
            }
        }
    }
}

impl Passage {
    fn take(&mut self, index: usize) -> Option<State> {
        let at = self.0.iter().position(|(of, _)| *of == index)?;
        Some(self.0.swap_remove(at).1)
    }
}
