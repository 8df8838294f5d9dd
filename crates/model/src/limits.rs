//! How requests are limited, tried again, and judged by others.

use std::{sync::Arc, time::Duration};

use crate::{
    identity::ServiceAccount,
    provenance::Provenance,
    quota::{ConnectionQuota, Descriptor, RequestQuota},
};

/// Limits on one proxy's use of a destination; `None` = none. What exceeds them is refused at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending_requests: Option<u32>,
    /// Requests at a time.
    pub requests: Option<u32>,
    /// Retries at a time.
    pub retries: Option<u32>,
    /// Requests on one connection before it is left.
    pub requests_per_connection: Option<u32>,
    /// How long a connection may take to come about.
    pub connect_timeout: Option<Duration>,
    /// When what comes of requests breaks the circuit. Stock Envoy knows nothing of the kind and does without.
    pub breaker: Option<Arc<CircuitBreaker>>,
}

/// A circuit that breaks by errors and slow answers, for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// How long requests are counted together.
    pub window: Duration,
    /// Fewest requests in a window of which shares are judged.
    pub min_requests: u64,
    /// How long it stays broken.
    pub open_for: Duration,
    /// An answer that takes so long is slow.
    pub slow_after: Duration,
    /// Errors (answers from 500 on, or none) that break it.
    pub errors: Bound,
    /// Slow answers that break it.
    pub slow: Bound,
    /// Status of the answer while it is broken.
    pub status: u16,
    /// Body of that answer.
    pub body: Arc<str>,
}

/// What is too much in a window; `None` = nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// By number.
    pub amount: Option<u64>,
    /// By share of the requests, in millionths.
    pub share: Option<u64>,
}

/// A bucket of tokens, one for each connection or request; full at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Tokens that fit.
    pub capacity: u32,
    /// Tokens added at each fill.
    pub fill: u32,
    /// Time between fills.
    pub interval: Duration,
}

/// A limit on requests to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimit {
    /// The requests let through.
    pub bucket: TokenBucket,
    /// Status of the answer to the others.
    pub status: u16,
    /// Headers of that answer.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
}

/// What an operator set for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSetting {
    /// The policy it was made from.
    pub provenance: Provenance,
    /// Namespace of the service.
    pub namespace: Arc<str>,
    /// Name of the service.
    pub service: Arc<str>,
    /// Limits on each client's use of it.
    pub connections: ConnectionLimits,
    /// New connections to one pod's opaque ports.
    pub connection_rate: Option<TokenBucket>,
    /// Requests to one pod.
    pub request_rate: Option<RequestLimit>,
    /// New connections to opaque ports, counted by a service.
    pub connection_quota: Option<ConnectionQuota>,
    /// Requests, counted by a service.
    pub request_quota: Option<RequestQuota>,
    /// What of each request is counted there.
    pub counted: Vec<Descriptor>,
    /// Limits of requests by path.
    pub paths: Vec<PathLimit>,
}

/// Limits of requests whose path is granted by exactly this text; where it has any, those of the service do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathLimit {
    /// The path, as the grant writes it.
    pub path: Arc<str>,
    /// Requests to one pod.
    pub rate: Option<RequestLimit>,
    /// What is counted by the service's [`RequestQuota`].
    pub counted: Vec<Descriptor>,
}

/// When a client's requests to some services are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRule {
    /// The policy it was made from.
    pub provenance: Provenance,
    /// The client.
    pub source: ServiceAccount,
    /// Namespaces and names of the services.
    pub services: Vec<(Arc<str>, Arc<str>)>,
    /// When and how.
    pub policy: RetryPolicy,
}

/// When and how requests are tried again, in Envoy's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Conditions, comma separated.
    pub conditions: Arc<str>,
    /// Tries after the first.
    pub retries: u32,
    /// Longest wait for each try; `None` = as long as for the whole request.
    pub per_try_timeout: Option<Duration>,
    /// First pause between tries; `None` = the proxy's default.
    pub back_off: Option<Duration>,
}

/// Somebody outside who judges every inbound request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// Host name or address of the gRPC service.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Longest wait for a verdict.
    pub timeout: Duration,
    /// Requests pass when there is no verdict.
    pub fail_open: bool,
    /// Prefix of the metrics.
    pub stat_prefix: Arc<str>,
}
