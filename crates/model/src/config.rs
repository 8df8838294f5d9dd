//! The configuration of one proxy: what [`crate::Mesh::compile`] yields and the xDS layer writes down.

use std::{collections::BTreeMap, collections::BTreeSet, net::SocketAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    identity::Identity,
    limits::{Authorizer, ConnectionLimits, RequestLimit, RetryPolicy, TokenBucket},
    mesh::{TlsParameters, Tracing},
    policy::{HttpMatch, PortSet},
    provenance::Provenance,
    quota::{ConnectionQuota, Counted, RequestQuota},
};

/// Everything one proxy needs. Parts that do not depend on the proxy are shared between configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Whose proxy it is.
    pub identity: Identity,
    /// TLS inside the mesh.
    pub tls: TlsParameters,
    /// Who judges every inbound request beside the grants.
    pub authorizer: Option<Arc<Authorizer>>,
    /// Who is told of requests.
    pub tracing: Option<Arc<Tracing>>,
    /// What the application may dial; `None` = nothing, the port is not even open.
    pub outbound: Option<Arc<Outbound>>,
    /// What others may send to the application; `None` = nothing, the port is not even open.
    pub inbound: Option<Inbound>,
    /// Whether metrics are served to Prometheus.
    pub scraped: bool,
    /// Whether the proxy has to be told what to log.
    pub told_to_log: bool,
    /// Route tables by name.
    pub routes: BTreeMap<Arc<str>, Arc<RouteTable>>,
    /// Clusters and trust that all proxies have, beside those below (permissive mode).
    pub common: Option<Arc<Common>>,
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    /// Which server identities are accepted, by the name of the secret that says so.
    pub trust: BTreeMap<Arc<str>, Arc<PeerTrust>>,
}

/// What does not depend on the proxy at all. No name in it is among a proxy's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Common {
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    /// Which server identities are accepted, by the name of the secret that says so.
    pub trust: BTreeMap<Arc<str>, Arc<PeerTrust>>,
}

/// The outbound listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Chains; no two match the same connection equally well.
    pub chains: Vec<Arc<OutboundChain>>,
    /// Whether what no chain matches goes to its original destination.
    pub passthrough: bool,
    /// Destination ports on which nothing may wait for the client's first bytes.
    pub server_first: BTreeSet<u16>,
}

/// One kind of outbound connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundChain {
    /// Name.
    pub name: Arc<str>,
    /// Which connections.
    pub matches: OutboundMatch,
    /// Where they go.
    pub forward: Forward,
    /// Why the chain exists.
    pub provenance: Provenance,
}

/// Which outbound connections a chain takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundMatch {
    /// Original destination port.
    pub port: u16,
    /// Original destination addresses; empty = any.
    pub addresses: Vec<IpNet>,
    /// What the first bytes must show.
    pub connect: Connect,
}

/// What the first bytes of a connection must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connect {
    /// Anything.
    Any,
    /// Clear-text HTTP.
    Http,
    /// TLS with one of these server names; empty = any name or none.
    Tls(Vec<Arc<str>>),
}

/// Where the bytes of a chain go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Requests are routed by the table of this name.
    Http(Arc<str>),
    /// The connection goes to one of these clusters.
    Tcp(Vec<WeightedCluster>),
}

/// A cluster and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// Name of the cluster.
    pub name: Arc<str>,
    /// Share relative to the sum; at least 1.
    pub weight: u32,
}

/// The inbound listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Name of the secret with the roots that clients' certificates are verified against.
    pub trust: Arc<str>,
    /// Chains for the mesh; what no chain matches is closed.
    pub chains: Vec<Arc<InboundChain>>,
    /// Chains for clients outside the mesh; no two match the same connection equally well.
    pub ingress: Vec<Arc<IngressChain>>,
}

/// One service port of this pod. Mutual TLS is always required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundChain {
    /// Name.
    pub name: Arc<str>,
    /// Original destination port: the application's.
    pub port: u16,
    /// Server names by which clients ask for it.
    pub server_names: Vec<Arc<str>>,
    /// Where it goes.
    pub forward: Forward,
    /// Who may open a connection.
    pub connections: Access,
    /// Who may make which request (HTTP chains).
    pub requests: Access,
    /// How many connections are let in (opaque chains).
    pub connection_rate: Option<TokenBucket>,
    /// Who else counts them.
    pub connection_quota: Option<ConnectionQuota>,
    /// Whether some route behind it limits the rate of requests.
    pub limits_requests: bool,
    /// Who else counts requests that routes behind it describe; [`Counted::quota`] is the index.
    pub request_quotas: Vec<RequestQuota>,
    /// Why the chain exists.
    pub provenance: Provenance,
}

/// One port of this pod for clients outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressChain {
    /// Name.
    pub name: Arc<str>,
    /// Original destination port: the application's.
    pub port: u16,
    /// Networks of the clients; empty = any.
    pub sources: Vec<IpNet>,
    /// How they must speak.
    pub gate: IngressGate,
    /// Name of the route table.
    pub table: Arc<str>,
    /// Who may make requests.
    pub requests: Access,
    /// Why the chain exists.
    pub provenance: Provenance,
}

/// How clients outside the mesh must speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressGate {
    /// Clear text.
    ClearText,
    /// TLS with the proxy's own certificate.
    Tls {
        /// Server names that clients may ask for; empty = any, or none.
        server_names: Vec<Arc<str>>,
        /// Whether a certificate of the mesh's root is demanded.
        verified: bool,
    },
}

/// Who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody whom the chain itself lets in: every verified identity of the mesh (permissive mode).
    Everyone,
    /// Whoever one of these rules names; no rule = nobody.
    Only(Arc<[Rule]>),
}

/// One grant of an [`Access`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique name within its list: where the grant was made.
    pub name: Arc<str>,
    /// SPIFFE names of the clients; never empty.
    pub principals: Vec<Arc<str>>,
    /// Original destination ports.
    pub ports: PortSet,
    /// Requests; `None` = not looked at.
    pub http: Option<HttpMatch>,
}

/// Virtual hosts of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    /// Name.
    pub name: Arc<str>,
    /// Hosts; no domain occurs twice.
    pub hosts: Vec<Arc<VirtualHost>>,
    /// Whether it serves requests of other proxies (inbound) or of the application.
    pub inbound: bool,
    /// Whether callers of the mesh who ask are told why they are refused.
    pub explained: bool,
}

/// Host names with common routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualHost {
    /// Name.
    pub name: Arc<str>,
    /// Values of the Host header.
    pub domains: Vec<String>,
    /// The first matching route is taken; no match = 404.
    pub routes: Vec<Route>,
    /// When requests are tried again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// How many requests are let through, all routes together.
    pub rate: Option<RequestLimit>,
    /// What of requests somebody else counts, unless the route has its own.
    pub counted: Vec<Counted>,
}

/// Requests and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which requests.
    pub matches: RouteMatch,
    /// What becomes of them.
    pub action: RouteAction,
    /// How many of them are let through; stands in for the host's.
    pub rate: Option<RequestLimit>,
    /// What of them somebody else counts; stands in for the host's.
    pub counted: Vec<Counted>,
    /// Why.
    pub provenance: Provenance,
}

/// Which requests a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// All.
    Any,
    /// Those that meet the conditions.
    Http(HttpMatch),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// It goes to one of these clusters; never empty.
    Forward(Vec<WeightedCluster>),
    /// It is answered with this status.
    Respond(u16),
}

/// A group of destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Name.
    pub name: Arc<str>,
    /// What is behind it.
    pub kind: ClusterKind,
    /// HTTP version spoken to it.
    pub http: UpstreamHttp,
    /// Limits on its use.
    pub limits: ConnectionLimits,
}

/// What is behind a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterKind {
    /// Pods of the mesh, over mutual TLS.
    Mesh {
        /// Server name of the handshake.
        server_name: Arc<str>,
        /// Name of the [`PeerTrust`].
        trust: Arc<str>,
        /// Ready pods.
        endpoints: Vec<SocketAddr>,
    },
    /// The application beside the proxy.
    Local(SocketAddr),
    /// A host name outside the mesh, resolved by the proxy.
    Dns {
        /// Host name.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// Wherever the application dialled.
    OriginalDestination,
}

/// HTTP version spoken to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// None: opaque bytes.
    Opaque,
    /// HTTP/2, always.
    Http2,
    /// As the request came in.
    AsDownstream,
}

/// Identities accepted from servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTrust {
    /// Name of the secret.
    pub name: Arc<str>,
    /// SPIFFE names, one of which the server must prove. Empty = no server is acceptable.
    pub names: Vec<Arc<str>>,
}

// === impl ProxyConfig ===

impl ProxyConfig {
    /// Name of the secret with the proxy's own key and certificate. The same for all: it is asked for in every
    /// cluster, which could not be shared if it named the proxy.
    pub fn own_certificate(&self) -> String {
        "service-cert".to_owned()
    }

    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        let common = self.common.as_ref();
        let common = || common.and_then(|common| common.clusters.get(name));
        self.clusters.get(name).or_else(common)
    }

    /// All clusters.
    pub fn all_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let common = self
            .common
            .iter()
            .flat_map(|common| common.clusters.values());
        self.clusters.values().chain(common)
    }

    /// Which server identities are accepted, by the name of the secret.
    pub fn peer_trust(&self, name: &str) -> Option<&Arc<PeerTrust>> {
        let common = self.common.as_ref();
        let common = || common.and_then(|common| common.trust.get(name));
        self.trust.get(name).or_else(common)
    }

    /// Which server identities are accepted, for all secrets.
    pub fn all_trust(&self) -> impl Iterator<Item = &Arc<PeerTrust>> {
        let common = self.common.iter().flat_map(|common| common.trust.values());
        self.trust.values().chain(common)
    }

    /// This half of a configuration and the other.
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.outbound = self.outbound.or(other.outbound);
        self.inbound = self.inbound.or(other.inbound);
        self.scraped |= other.scraped;
        self.common = self.common.or(other.common);
        self.routes.extend(other.routes);
        self.clusters.extend(other.clusters);
        self.trust.extend(other.trust);
        self
    }
}

// === impl WeightedCluster ===

impl WeightedCluster {
    /// The whole traffic to one cluster.
    pub fn all(name: Arc<str>) -> Vec<Self> {
        vec![Self { name, weight: 1 }]
    }
}
