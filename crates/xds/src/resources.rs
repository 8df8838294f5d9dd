//! One proxy's configuration as Envoy xDS v3 resources.
//!
//! A stock Envoy accepts what is written here; what it has no field for stands in metadata, which it does not read. Same input, same
//! bytes: a resource's version is a hash of its content, so an unchanged resource is never sent again.

mod access_log;
mod authorizer;
mod build;
mod chain;
mod cluster;
mod limit;
mod listener;
mod origin;
mod quota;
mod rbac;
mod route;
mod secret;
mod tracing;

use std::{collections::BTreeMap, hash::Hasher, sync::Arc};

use envoy_types::pb::google::protobuf::Any;
use model::ProxyConfig;

pub use origin::origins;

/// Clusters.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Endpoints of clusters.
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Route tables.
pub const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Certificates and validation contexts.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The kinds a proxy is told of, by type URL. In which order they are pushed is the server's business.
pub const KINDS: [&str; 5] = [CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET];

/// The cluster of the sidecar's bootstrap by which it gets its own certificate (SDS). A proxy that makes its key itself
/// need not have it: the certificate is known by its name.
pub const OWN_CERTIFICATE_SOURCE: &str = "osm-agent";

/// Everything one proxy is told, by type URL and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Every type of [`KINDS`] has an entry, be it empty.
    pub resources: BTreeMap<&'static str, BTreeMap<String, Resource>>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Hash of the content.
    pub version: String,
    /// The encoded resource.
    pub any: Arc<Any>,
}

/// The certificates by which identities of the mesh are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// One or more root certificates in PEM; several while roots rotate.
    pub pem: String,
}

/// Everything the proxy with this configuration is told.
pub fn snapshot(config: &ProxyConfig, trust: &TrustBundle) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for kind in KINDS {
        snapshot.resources.insert(kind, BTreeMap::new());
    }
    let mut add = |kind, name: &str, any| snapshot.add(kind, name, any);
    for cluster in config.all_clusters() {
        add_cluster(config, cluster, &mut add);
    }
    for table in config.routes.values() {
        add_table(table, &mut add);
    }
    for peers in config.all_trust() {
        add_peers(config, peers, trust, &mut add);
    }
    if let Some(value) = &config.outbound {
        add_outbound(config, value, &mut add);
    }
    add_inbound(config, trust, &mut add);
    snapshot
}

/// Takes the resources that a value becomes: type, name, resource.
pub(crate) type Add<'a> = dyn FnMut(&'static str, &str, Any) + 'a;

/// A cluster and, if they are told by themselves, its endpoints.
pub(crate) fn add_cluster(config: &ProxyConfig, value: &model::Cluster, add: &mut Add<'_>) {
    let cluster = build::any(&cluster::cluster(config, value));
    add(CLUSTER, &value.name, cluster);
    if let Some(endpoints) = cluster::endpoints(value) {
        add(ENDPOINTS, &value.name, build::any(&endpoints));
    }
}

pub(crate) fn add_table(value: &model::RouteTable, add: &mut Add<'_>) {
    add(ROUTES, &value.name, build::any(&route::table(value)));
}

pub(crate) fn add_peers(
    config: &ProxyConfig,
    value: &model::PeerTrust,
    trust: &TrustBundle,
    add: &mut Add<'_>,
) {
    let secret = secret::of_servers(config, value, trust);
    add(SECRET, &secret.name, build::any(&secret));
}

pub(crate) fn add_outbound(config: &ProxyConfig, value: &model::Outbound, add: &mut Add<'_>) {
    let mut listener = listener::outbound(config, value);
    if config.told_to_log {
        access_log::add(&mut listener);
    }
    add(LISTENER, &listener.name, build::any(&listener));
}

/// What concerns the proxy itself and its application, beside clusters and routes.
pub(crate) fn add_inbound(config: &ProxyConfig, trust: &TrustBundle, add: &mut Add<'_>) {
    if let Some(inbound) = &config.inbound {
        let mut listener = listener::inbound(config, inbound);
        if config.told_to_log {
            access_log::add(&mut listener);
        }
        add(LISTENER, &listener.name, build::any(&listener));
        let secret = secret::of_clients(inbound, trust);
        add(SECRET, &secret.name, build::any(&secret));
        if let Some(authorizer) = &config.authorizer {
            let cluster = authorizer::cluster(config, authorizer);
            add(CLUSTER, &cluster.name, build::any(&cluster));
        }
    }
    if let Some(tracing) = &config.tracing {
        let cluster = tracing::cluster(config, tracing);
        add(CLUSTER, &cluster.name, build::any(&cluster));
    }
    if config.scraped {
        let listener = listener::prometheus();
        add(LISTENER, &listener.name, build::any(&listener));
        let cluster = cluster::metrics();
        add(CLUSTER, &cluster.name, build::any(&cluster));
    }
}

// === impl Snapshot ===

impl Snapshot {
    fn add(&mut self, kind: &'static str, name: &str, any: Any) {
        let resource = Resource::new(any);
        let resources = self.resources.entry(kind).or_default();
        resources.insert(name.to_owned(), resource);
    }
}

// === impl Resource ===

impl Resource {
    /// The resource with its version.
    pub fn new(any: Any) -> Self {
        // Fixed keys: two controllers of one release agree on versions, so a proxy that moves from one
        // to the other is not sent everything again.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(any.type_url.as_bytes());
        hasher.write(&any.value);
        Self {
            version: format!("{:016x}", hasher.finish()),
            any: Arc::new(any),
        }
    }
}
