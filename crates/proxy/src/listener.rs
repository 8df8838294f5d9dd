//! A listener's configuration: addresses, inspection, chains and their filters.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use envoy_types::pb::envoy::config::listener::v3::FilterChain;
use socket2::TcpKeepalive;

use crate::access::Logger;
use crate::bell::Bell;
use crate::chain::ChainTable;
use crate::http::edge::Edge;
use crate::http::filters::{Filter, HttpFilter};
use crate::http::headers::HeadRules;
use crate::http::mapping::ReplyMapping;
use crate::http::xfcc::CertDetails;
use crate::network::NetworkFilter;
use crate::proxy_protocol::Accepts;
use crate::route::RouteTable;
use crate::socket_options::SocketOption;
use crate::spans::Tracing;
use crate::stats::HttpStats;
use crate::tls::{DownstreamTls, TlsServer};

/// A listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Its name in statistics: the address with underscores, or what the configuration says.
    pub stat_name: Arc<str>,
    /// Logs of its connections.
    pub access_log: Arc<[Logger]>,
    /// Its sockets.
    pub binding: Arc<Binding>,
    /// Hands a connection to the listener of its original destination, if there is one.
    pub hands_over: bool,
    /// Its connections do not count towards the proxy's limit.
    pub ignores_limit: bool,
    /// Signs of life that clients are asked for; the proxy's own if absent.
    pub keepalive: Option<TcpKeepalive>,
    /// A PROXY header comes first.
    pub proxy_protocol: Option<Accepts>,
    /// Inbound or outbound, for logs and statistics.
    pub direction: Direction,
    /// The destination before redirection decides.
    pub original_destination: bool,
    /// Look for a ClientHello, unless the predicate holds.
    pub tls_inspector: Option<Predicate>,
    /// Look for HTTP, unless the predicate holds.
    pub http_inspector: Option<Predicate>,
    /// How long the inspectors wait.
    pub inspection_timeout: Duration,
    /// What they did not learn by then stays unknown (else the connection closes).
    pub continue_on_timeout: bool,
    /// The conditions of `chains`, in the same order.
    pub table: ChainTable,
    /// The chains.
    pub chains: Vec<Arc<Chain>>,
    /// For what no chain takes.
    pub default_chain: Option<Arc<Chain>>,
}

/// How a listener's sockets are made; what changes it needs new sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Where it listens.
    pub addresses: Vec<Address>,
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// Takes connections to addresses that are not the host's (TPROXY).
    pub transparent: bool,
    /// Listens on addresses that are not there yet.
    pub freebind: bool,
    /// Sockets are opened; otherwise connections are only handed over by other listeners.
    pub bind_to_port: bool,
}

/// One address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub at: SocketAddr,
    /// An IPv6 socket takes IPv4, too.
    pub v4_too: bool,
    /// Options of the socket.
    pub options: Vec<SocketOption>,
}

/// Whose traffic a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Not said.
    Unspecified,
    /// To the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// How exactly a listener's address is a destination's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// The port, on any address.
    Port,
    /// Address and port.
    Address,
}

/// A condition on the destination's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// Never.
    Never,
    /// Always.
    Always,
    /// `[start, end)`.
    Ports(i64, i64),
    /// One of them.
    Or(Vec<Predicate>),
    /// All of them.
    And(Vec<Predicate>),
    /// The contrary.
    Not(Box<Predicate>),
}

/// A filter chain.
#[derive(Debug)]
pub struct Chain {
    /// Its name, which carries the provenance.
    pub name: Arc<str>,
    /// What it was made from: an equal chain of the next configuration is this one.
    pub source: FilterChain,
    /// TLS termination.
    pub tls: Option<DownstreamTls>,
    /// The TLS configuration that serves now; absent until its secrets are there.
    pub tls_server: ArcSwapOption<TlsServer>,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Filters before the last one.
    pub filters: Vec<NetworkFilter>,
    /// The last filter.
    pub terminal: Terminal,
    /// Rings when the chain leaves the configuration: its connections drain.
    pub drain: Bell,
    /// The counters of its connection manager, from its first connection on.
    pub http_stats: OnceLock<Arc<HttpStats>>,
}

/// The last filter of a chain.
#[derive(Debug)]
pub enum Terminal {
    /// Bytes.
    Tcp(TcpProxy),
    /// HTTP.
    Http(Box<HttpManager>),
}

/// The TCP proxy.
#[derive(Debug)]
pub struct TcpProxy {
    /// Logs of its connections.
    pub access_log: Vec<Logger>,
    /// Its name in statistics.
    pub stat_prefix: Arc<str>,
    /// Where to.
    pub target: crate::route::Target,
    /// Without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    /// Consistent hashing goes by the client's address.
    pub hash_source: bool,
    /// Endpoints tried before giving up.
    pub connect_attempts: u32,
    /// The longest a connection may live.
    pub max_duration: Option<Duration>,
}

/// The HTTP connection manager.
#[derive(Debug)]
pub struct HttpManager {
    /// Logs of its requests.
    pub access_log: Vec<Logger>,
    /// Its name in statistics.
    pub stat_prefix: Arc<str>,
    /// Which HTTP.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// Filters before the router.
    pub filters: Vec<Filter>,
    /// Value of the `server` header of responses.
    pub server_name: http::HeaderValue,
    /// When it is set.
    pub server_header: ServerHeader,
    /// Bytes of a request's headers.
    pub max_header_bytes: u32,
    /// Number of a request's headers.
    pub max_headers: usize,
    /// A connection without requests.
    pub idle_timeout: Option<Duration>,
    /// A request without bytes.
    pub stream_idle_timeout: Option<Duration>,
    /// A request from its first byte to its last.
    pub request_timeout: Option<Duration>,
    /// A request and its response together.
    pub max_stream_duration: Option<Duration>,
    /// What the proxy before says of its own timeout is believed.
    pub respect_expected_timeout: bool,
    /// From the first byte of a request to the last of its headers.
    pub headers_timeout: Duration,
    /// The longest a connection may live before it drains.
    pub max_connection_duration: Option<Duration>,
    /// Requests on one connection before it drains.
    pub max_requests_per_connection: Option<u64>,
    /// Whom requests come from, and what is believed of them.
    pub edge: Edge,
    /// What is done about their heads.
    pub heads: HeadRules,
    /// What becomes of replies of the proxy's own.
    pub reply_mapping: Option<Box<ReplyMapping>>,
    /// Sends the request id back.
    pub request_id_in_response: bool,
    /// No `x-envoy-*` headers.
    pub suppress_envoy_headers: bool,
    /// What `x-forwarded-client-cert` says of a client.
    pub cert_details: CertDetails,
    /// Upgrades allowed, lower case.
    pub upgrades: Vec<String>,
    /// HTTP/1.0 is spoken.
    pub accept_http_10: bool,
    /// HTTP/2 settings.
    pub h2: H2,
    /// Whether and how requests are traced.
    pub tracing: Option<Box<Tracing>>,
}

/// Which HTTP a connection manager speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN, else by the connection's first bytes.
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// Where routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// RDS.
    Named(Arc<str>),
    /// The listener itself.
    Inline(Arc<RouteTable>),
}

/// When the `server` header of responses is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeader {
    /// Always.
    Overwrite,
    /// If the upstream sent none.
    IfAbsent,
    /// Never.
    PassThrough,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCert {
    /// Removed.
    #[default]
    Sanitize,
    /// Kept if the connection is mTLS.
    ForwardOnly,
    /// Appended to if the connection is mTLS.
    AppendForward,
    /// Replaced if the connection is mTLS.
    SanitizeSet,
    /// Kept.
    AlwaysForwardOnly,
}

/// HTTP/2 settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct H2 {
    /// Streams at a time.
    pub max_concurrent_streams: u32,
    /// Bytes of a stream's window.
    pub stream_window: u32,
    /// Bytes of a connection's window.
    pub connection_window: u32,
    /// Extended CONNECT is allowed.
    pub allow_connect: bool,
}

// === impl H2 ===

impl Default for H2 {
    /// A window of 1 MiB per stream and four times that per connection: a stalled stream cannot block the others.
    fn default() -> H2 {
        H2 {
            max_concurrent_streams: 1024,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            allow_connect: false,
        }
    }
}

// === impl Binding ===

impl Binding {
    /// Whether a socket of the other would be the same, its address apart.
    pub fn is_like(&self, other: &Binding) -> bool {
        (self.backlog, self.transparent, self.freebind)
            == (other.backlog, other.transparent, other.freebind)
    }

    /// Whether a connection to this destination is one of the listener's, and whether by its very address.
    pub fn takes(&self, destination: SocketAddr) -> Option<Exactness> {
        let of = |address: &Address| match address.at {
            at if at == destination => Some(Exactness::Address),
            at if at.ip().is_unspecified() && at.port() == destination.port() => {
                Some(Exactness::Port)
            }
            _ => None,
        };
        self.addresses.iter().filter_map(of).max()
    }
}

// === impl Predicate ===

impl Predicate {
    /// Whether it holds for a destination port.
    pub fn holds(&self, port: u16) -> bool {
        match self {
            Predicate::Never => false,
            Predicate::Always => true,
            Predicate::Ports(start, end) => (*start..*end).contains(&i64::from(port)),
            Predicate::Or(some) => some.iter().any(|one| one.holds(port)),
            Predicate::And(all) => all.iter().all(|one| one.holds(port)),
            Predicate::Not(inner) => !inner.holds(port),
        }
    }
}

impl Direction {
    /// As it appears in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Unspecified => "unspecified",
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

impl Chain {
    /// Whether a filter shows a service the client's certificate.
    pub fn shows_certificate(&self) -> bool {
        let of_http = match &self.terminal {
            Terminal::Http(manager) => manager.filters.iter().any(|filter| {
                matches!(&filter.kind, HttpFilter::ExtAuthz(authz) if authz.shown.certificate)
            }),
            Terminal::Tcp(_) => false,
        };
        let of_network = self
            .filters
            .iter()
            .any(|filter| matches!(filter, NetworkFilter::ExtAuthz(authz) if authz.certificate));
        of_http || of_network
    }
}
