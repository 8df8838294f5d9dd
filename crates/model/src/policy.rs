//! What policies say, after references are resolved: who may call whom, what may leave, how traffic is split.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;

use crate::{identity::ServiceAccount, limits::ConnectionLimits, provenance::Provenance};

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortSet {
    /// Every port.
    Any,
    /// Only these.
    Only(BTreeSet<u16>),
}

/// Conditions on an HTTP request, all of which must hold. Regexes match the whole value (RE2 syntax).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpMatch {
    /// Regex of the path without the query; `None` = any path.
    pub path: Option<Arc<str>>,
    /// Methods; empty = any.
    pub methods: BTreeSet<Arc<str>>,
    /// Header name (lower-case) and regex of its value.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
}

/// One kind of HTTP request that an [`Authorization`] allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGrant {
    /// The requests.
    pub matches: HttpMatch,
    /// The rule that says so.
    pub provenance: Provenance,
}

/// Sources that may call a destination, and how. Grants only add up; none takes anything away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The policy it was made from.
    pub provenance: Provenance,
    /// Identity of the servers.
    pub destination: ServiceAccount,
    /// Identities of the clients; empty = nobody.
    pub sources: BTreeSet<ServiceAccount>,
    /// Target ports for opaque TCP, which also restrict the HTTP grants; `None`: no TCP is granted, and
    /// HTTP is not restricted by port.
    pub tcp: Option<PortSet>,
    /// HTTP requests granted.
    pub http: Vec<HttpGrant>,
}

/// Traffic to an apex service spread over backends of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The policy it was made from.
    pub provenance: Provenance,
    /// Namespace of apex and backends.
    pub namespace: Arc<str>,
    /// Name of the apex service.
    pub apex: Arc<str>,
    /// Requests it applies to; `None` = all.
    pub matches: Option<Vec<HttpMatch>>,
    /// Where they go.
    pub backends: Vec<Backend>,
}

/// One backend of a [`Split`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name of the service.
    pub service: Arc<str>,
    /// Share relative to the sum of all weights.
    pub weight: u32,
}

/// Protocols of egress ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EgressProtocol {
    /// Clear-text HTTP, routed by Host.
    Http,
    /// TLS passed through, chosen by SNI.
    Https,
    /// Opaque TCP.
    Tcp,
    /// Opaque TCP where the server speaks first.
    TcpServerFirst,
}

/// One port of an [`EgressRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EgressPort {
    /// Destination port.
    pub number: u16,
    /// What is spoken.
    pub protocol: EgressProtocol,
}

/// Destinations outside the mesh that some identities may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// The policy it was made from.
    pub provenance: Provenance,
    /// Identities it serves; empty = nobody.
    pub sources: BTreeSet<ServiceAccount>,
    /// Host names: of the Host header for http, of the SNI for https (empty = any SNI); ignored for tcp.
    pub hosts: Vec<Arc<str>>,
    /// Original destinations; `None` = any. An empty list reaches nothing.
    pub addresses: Option<Vec<IpNet>>,
    /// Ports.
    pub ports: Vec<EgressPort>,
    /// HTTP requests allowed; `None` = all. An empty list allows none (404).
    pub http: Option<Vec<HttpGrant>>,
    /// Limits on each client's use of the destinations.
    pub limits: ConnectionLimits,
}

/// Clients outside the mesh that may reach one port of a service's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRule {
    /// The policy it was made from.
    pub provenance: Provenance,
    /// Namespace of the service.
    pub namespace: Arc<str>,
    /// Name of the service.
    pub service: Arc<str>,
    /// Port of its pods.
    pub port: u16,
    /// The clients' networks; `None` = any. An empty list admits nobody.
    pub sources: Option<BTreeSet<IpNet>>,
    /// How clients must speak; `None` = clear text.
    pub tls: Option<IngressTls>,
}

/// TLS that clients outside the mesh must speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressTls {
    /// Server names that clients may ask for; empty = any, or none.
    pub server_names: Vec<Arc<str>>,
    /// What they must prove.
    pub clients: IngressClients,
}

/// What clients outside the mesh must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressClients {
    /// Nothing: no certificate is asked for.
    Anyone,
    /// A certificate of the mesh's root, whatever its names.
    Verified,
    /// A certificate of the mesh's root with one of these names; none = nobody.
    Named(BTreeSet<Arc<str>>),
}

// === impl PortSet ===

impl PortSet {
    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

// === impl Authorization ===

impl Authorization {
    /// Whether it lets a connection to `port` through to the protocol's own checks.
    pub fn admits(&self, is_http: bool, port: u16) -> bool {
        match &self.tcp {
            Some(ports) => ports.contains(port),
            None => is_http,
        }
    }
}

// === impl EgressProtocol ===

impl EgressProtocol {
    /// The protocol of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            "tcp" => Some(Self::Tcp),
            "tcp-server-first" => Some(Self::TcpServerFirst),
            _ => None,
        }
    }

    /// The name used in resource names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::TcpServerFirst => "tcp-server-first",
        }
    }
}
