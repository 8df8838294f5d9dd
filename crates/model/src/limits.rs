//! How requests are limited, tried again, and judged by others.

use std::{sync::Arc, time::Duration};

use crate::{identity::ServiceAccount, provenance::Provenance};

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
    /// Requests to one pod whose path is granted by exactly this text.
    pub path_rates: Vec<(Arc<str>, RequestLimit)>,
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
