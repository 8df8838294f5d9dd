//! The mesh as pure values, and its compilation into one proxy's configuration.
//!
//! Services, workloads and policies go in ([`MeshParts`]), a [`Mesh`] answers what the proxy of one
//! [`Workload`] has to do ([`ProxyConfig`]). No clock, no I/O, no async; it knows neither Kubernetes
//! nor protobuf. API families (SMI, OSM policies, later others) produce these values; after this crate
//! nobody knows where a rule came from, except by its [`Provenance`].
//!
//! Everything fails closed: what no value grants is not configured.

mod compile;
mod config;
mod identity;
mod limits;
mod mesh;
mod policy;
mod provenance;
mod quota;
mod service;

pub use config::{
    Access, Cluster, ClusterKind, Common, Connect, Forward, Inbound, InboundChain, IngressChain,
    IngressGate, Outbound, OutboundChain, OutboundMatch, PeerTrust, ProxyConfig, Route,
    RouteAction, RouteMatch, RouteTable, Rule, UpstreamHttp, VirtualHost, WeightedCluster,
};
pub use identity::{Identity, ServiceAccount};
pub use limits::{
    Authorizer, Bound, CircuitBreaker, ConnectionLimits, PathLimit, RequestLimit, RetryPolicy,
    RetryRule, TokenBucket, UpstreamSetting,
};
pub use mesh::{Mesh, MeshParts, MeshSettings, Place, TlsParameters, Tracing};
pub use policy::{
    Authorization, Backend, EgressPort, EgressProtocol, EgressRule, HttpGrant, HttpMatch,
    IngressClients, IngressRule, IngressTls, PortSet, Split,
};
pub use provenance::{Extent, Problem, Provenance};
pub use quota::{
    ConnectionQuota, Counted, Descriptor, DescriptorEntry, HeaderIs, QuotaService, RequestQuota,
};
pub use service::{CLUSTER_DOMAIN, Endpoint, Protocol, Service, ServicePort, Workload};
