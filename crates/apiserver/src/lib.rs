//! The embedded cluster's Kubernetes API server: storage, watch, patches, CRDs, admission; knows nothing of meshes

pub mod backend;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

pub use backend::PodBackend;

/// How the server is to run.
pub struct Config {
    /// Folder for the store and the PKI; made if absent, mode 0700.
    pub data_dir: PathBuf,
    /// Listening sockets made by the caller, possibly in other network namespaces.
    pub listeners: Vec<TcpListener>,
    /// More subject names (DNS names or IP addresses) of the server certificate; loopback, `kubernetes.default.svc…`,
    /// the listeners' addresses and the first Service address are always in it.
    pub extra_sans: Vec<String>,
    /// IPv4 and, if dual stack, IPv6 range of ClusterIPs; the first entry is the default family.
    pub service_cidrs: Vec<ipnet::IpNet>,
    /// Address under which pods reach the server, published as Endpoints of Service `default/kubernetes`.
    pub advertise: Option<SocketAddr>,
    /// The node; may come later by [`ServerHandle::set_backend`].
    pub backend: Option<Arc<dyn PodBackend>>,
}

/// Whom a client certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientUser {
    /// User name (certificate CN).
    pub name: String,
    /// Groups (certificate O).
    pub groups: Vec<String>,
}

impl ClientUser {
    /// The cluster administrator, group `system:masters`.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &["system:masters"])
    }

    /// A node agent.
    pub fn node(name: &str) -> Self {
        Self::new(&format!("system:node:{name}"), &["system:nodes"])
    }

    /// Any user.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect() }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the data folder.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("store {path}: {reason}")]
    Store {
        /// The database file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// Keys and certificates.
    #[error("certificates: {0}")]
    Pki(String),
    /// The configuration.
    #[error("configuration: {0}")]
    Config(String),
}

/// A running server.
pub struct ServerHandle {
    addresses: Vec<SocketAddr>,
}

impl ServerHandle {
    /// Where the server listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The cluster CA certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        ""
    }

    /// Gives the server its node; a second call is ignored.
    pub fn set_backend(&self, _backend: Arc<dyn PodBackend>) {}

    /// A kubeconfig (YAML) with a freshly issued client certificate; `server_url` like `https://127.0.0.1:6443`.
    pub fn kubeconfig(&self, _server_url: &str, _user: &ClientUser) -> Result<String, StartError> {
        Err(StartError::Pki("not started".to_owned()))
    }

    /// Stops accepting, ends open connections, closes the store.
    pub async fn shutdown(self) {}
}

/// Starts the server; returns when it answers.
pub async fn start(config: Config) -> Result<ServerHandle, StartError> {
    let _ = config.service_cidrs.first().map(|c| -> IpAddr { c.addr() });
    Err(StartError::Config("the server is not built yet".to_owned()))
}
