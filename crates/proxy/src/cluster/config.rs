//! A cluster as configured.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::breaker::Thresholds;
use super::check::HealthCheck;
use super::circuit::CircuitBreaker;
use super::subset::{Labels, Subsetting};
use crate::listener::H2;
use crate::net::SocketOptions;
use crate::tls::UpstreamTls;

/// Envoy's default overprovisioning factor, in percent.
pub const OVERPROVISIONING: u32 = 140;

/// A cluster as configured.
#[derive(Debug)]
pub struct ClusterConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub policy: LbPolicy,
    /// What all policies have in common.
    pub balance: Balance,
    /// How endpoints are divided by their labels, of which routes name some.
    pub subsets: Option<Subsetting>,
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// TLS origination.
    pub tls: Option<UpstreamTls>,
    /// Which HTTP it is spoken to with.
    pub http: UpstreamHttp,
    /// An idle connection is closed after this; the longest time there is: never.
    pub idle_timeout: Duration,
    /// A connection takes no more requests after this.
    pub max_connection_duration: Option<Duration>,
    /// How connections are opened.
    pub socket: SocketOptions,
    /// Requests on one connection before it is left.
    pub max_requests_per_connection: Option<u64>,
    /// Limits on its load.
    pub thresholds: Thresholds,
    /// When errors or slow answers break its circuit.
    pub circuit: Option<CircuitBreaker>,
    /// How an original destination is found.
    pub original: OriginalLb,
    /// How long an unused original destination is kept.
    pub cleanup_interval: Duration,
    /// Ejection of endpoints that fail.
    pub outliers: Option<lb::outlier::Settings>,
    /// Active health checks.
    pub check: Option<Arc<HealthCheck>>,
    /// Connections to an endpoint are closed when its checks fail.
    pub close_on_health_failure: bool,
    /// An endpoint that leaves the configuration is let go even if its checks pass.
    pub ignore_health_on_removal: bool,
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

/// How an original destination is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginalLb {
    /// A request's header names it, if it holds an address with a port.
    pub header: Option<HeaderName>,
    /// Another port than the client's.
    pub port: Option<u16>,
}

/// DNS discovery.
#[derive(Debug, PartialEq)]
pub struct Dns {
    /// Names with what their addresses become.
    pub hosts: Vec<DnsHost>,
    /// Localities and policies of the endpoints; its own list of endpoints is empty.
    pub frame: Assignment,
    /// All addresses of a name are one endpoint, which connects to one of them (LOGICAL_DNS).
    pub logical: bool,
    /// How often it is asked anew.
    pub refresh: Duration,
    /// The record's time to live decides instead.
    pub respect_ttl: bool,
    /// After a failure: the first wait and the longest.
    pub retry: (Duration, Duration),
    /// Added to each wait, by lot.
    pub jitter: Duration,
    /// Which addresses are taken.
    pub family: Family,
}

/// A name, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHost {
    /// The name.
    pub name: String,
    /// What each of its addresses becomes; of its own address only the port counts.
    pub endpoint: EndpointConfig,
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
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Endpoints, addresses already known.
    pub endpoints: Vec<EndpointConfig>,
    /// The localities they are in.
    pub localities: Vec<Locality>,
    /// In percent: at 140, a priority takes all the load while 72 % of its endpoints are healthy.
    pub overprovisioning: u32,
    /// Shares of the requests to be dropped, in millionths, each of what the one before left.
    pub drops: Vec<u32>,
    /// Health of a priority is by weight, not by number.
    pub weighted_health: bool,
}

/// A locality.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// Region, zone and sub-zone.
    pub name: [String; 3],
    /// Its share where localities are weighted.
    pub weight: u32,
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
    /// What it stands for in consistent hashing; empty: its address or host name.
    pub hash_key: String,
    /// What it says of itself for subsets.
    pub labels: Labels,
    /// Its place in the assignment's list of localities.
    pub locality: usize,
    /// What the control plane says of it.
    pub health: Reported,
    /// How it is checked.
    pub check: CheckTarget,
}

/// What the control plane says of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reported {
    /// Nothing, or that it is healthy.
    #[default]
    Healthy,
    /// Used where the healthy ones do not suffice.
    Degraded,
    /// Not used.
    Unhealthy,
    /// Not used: it is about to go.
    Draining,
}

/// Where an endpoint's health is checked, if not as its requests go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckTarget {
    /// Another address.
    pub address: Option<IpAddr>,
    /// Another port.
    pub port: Option<u16>,
    /// The host named in HTTP checks.
    pub hostname: String,
    /// It is not checked.
    pub disabled: bool,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin,
    /// Of so many by lot, or of all, the one with the fewest requests.
    LeastRequest(Contest),
    /// By lot.
    Random,
    /// By a request's hash, on a ring.
    RingHash(lb::ring::Settings),
    /// By a request's hash, in a table of this size.
    Maglev(u64),
}

/// Among whom the least loaded is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contest {
    /// So many by lot.
    Some(u32),
    /// All.
    All,
}

/// What all policies have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    /// First a locality is chosen, by weight.
    pub locality_weighted: bool,
    /// In percent: with fewer healthy endpoints, all are used …
    pub panic_threshold: f64,
    /// … or none.
    pub fail_in_panic: bool,
    /// Endpoints stand for their host names in consistent hashing, not for their addresses.
    pub hash_by_hostname: bool,
    /// Endpoints that were never checked do not count.
    pub ignore_unchecked: bool,
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

// === impl Assignment, EndpointConfig, Balance ===

impl Default for Assignment {
    fn default() -> Assignment {
        Assignment {
            endpoints: Vec::new(),
            localities: Vec::new(),
            overprovisioning: OVERPROVISIONING,
            drops: Vec::new(),
            weighted_health: false,
        }
    }
}

impl EndpointConfig {
    /// An endpoint of which nothing but the address is known.
    pub fn plain(address: SocketAddr) -> EndpointConfig {
        EndpointConfig {
            address,
            hostname: String::new(),
            weight: 1,
            priority: 0,
            hash_key: String::new(),
            labels: Labels::default(),
            locality: 0,
            health: Reported::Healthy,
            check: CheckTarget::default(),
        }
    }

    /// Whether both describe the same endpoint, which keeps its connections and its health when weight, priority,
    /// locality or what is reported of it change.
    pub fn is_same(&self, other: &EndpointConfig) -> bool {
        self.address == other.address
            && self.hostname == other.hostname
            && self.check == other.check
    }
}

impl Default for Balance {
    /// Envoy's defaults.
    fn default() -> Balance {
        Balance {
            locality_weighted: false,
            panic_threshold: 50.0,
            fail_in_panic: false,
            hash_by_hostname: false,
            ignore_unchecked: false,
        }
    }
}
