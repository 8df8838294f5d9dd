//! A cluster as configured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::Thresholds;
use crate::listener::H2;
use crate::tls::UpstreamTls;

/// A cluster as configured.
#[derive(Debug)]
pub struct ClusterConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub policy: LbPolicy,
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// TLS origination.
    pub tls: Option<UpstreamTls>,
    /// Which HTTP it is spoken to with.
    pub http: UpstreamHttp,
    /// An idle connection is closed after this.
    pub idle_timeout: Duration,
    /// Requests on one connection before it is left.
    pub max_requests_per_connection: Option<u64>,
    /// Limits on its load.
    pub thresholds: Thresholds,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// The configuration itself.
    Static(Arc<Assignment>),
    /// EDS, under this name.
    Eds(Arc<str>),
    /// DNS: every address of every name is an endpoint.
    Dns(Arc<Dns>),
    /// Where the client was going.
    OriginalDestination,
}

/// DNS discovery.
#[derive(Debug, PartialEq, Eq)]
pub struct Dns {
    /// Names with ports and weights.
    pub hosts: Vec<(String, u16, u32)>,
    /// How often it is asked anew.
    pub refresh: Duration,
    /// The record's time to live decides instead.
    pub respect_ttl: bool,
    /// Which addresses are taken.
    pub family: Family,
}

/// Which addresses of a name are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv6 if there are any, else IPv4 (Envoy's AUTO).
    PreferV6,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// IPv4 if there are any, else IPv6.
    PreferV4,
    /// Both.
    All,
}

/// Endpoints as configured.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Endpoints, addresses already known.
    pub endpoints: Vec<EndpointConfig>,
}

/// One endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Its address.
    pub address: SocketAddr,
    /// Its host name, for host rewrites.
    pub hostname: String,
    /// Its share, positive.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// May be used.
    pub healthy: bool,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The one of two with fewer requests.
    LeastRequest,
    /// By lot, by weight.
    Random,
}

/// Which HTTP a cluster is spoken to with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2(H2),
    /// What the client speaks.
    Downstream(H2),
}
