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
    for cluster in config.clusters.values() {
        snapshot.add(
            CLUSTER,
            &cluster.name,
            build::any(&cluster::cluster(config, cluster)),
        );
        if let Some(endpoints) = cluster::endpoints(cluster) {
            snapshot.add(ENDPOINTS, &cluster.name, build::any(&endpoints));
        }
    }
    for table in config.routes.values() {
        snapshot.add(ROUTES, &table.name, build::any(&route::table(table)));
    }
    for listener in listener::listeners(config) {
        snapshot.add(LISTENER, &listener.name, build::any(&listener));
    }
    if let Some(authorizer) = config
        .authorizer
        .as_ref()
        .filter(|_| config.inbound.is_some())
    {
        let cluster = authorizer::cluster(config, authorizer);
        snapshot.add(CLUSTER, &cluster.name, build::any(&cluster));
    }
    if let Some(tracing) = &config.tracing {
        let cluster = tracing::cluster(config, tracing);
        snapshot.add(CLUSTER, &cluster.name, build::any(&cluster));
    }
    if config.scraped {
        let cluster = cluster::metrics();
        snapshot.add(CLUSTER, &cluster.name, build::any(&cluster));
    }
    for secret in secret::secrets(config, trust) {
        snapshot.add(SECRET, &secret.name, build::any(&secret));
    }
    snapshot
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
