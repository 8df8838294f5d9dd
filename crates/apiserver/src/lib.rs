//! The embedded cluster's Kubernetes API server: storage, watch, patches, CRDs, admission; knows nothing of meshes

// A failure becomes a Status with names, causes and texts; it is made at most once per request, so its size does not matter.
#![allow(clippy::result_large_err)]

mod admission;
mod auth;
pub mod backend;
mod bootstrap;
mod convert;
mod crd;
mod defaults;
mod discovery;
mod exec;
mod kinds;
mod object;
mod openapi;
mod patch;
mod pki;
mod protobuf;
mod proxy;
mod request;
mod rest;
mod schema;
mod selectors;
mod server;
mod services;
mod status;
mod store;
mod table;
mod token;
mod validate;
mod watch;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

pub use backend::PodBackend;
use kinds::Registry;
pub use pki::ClientCredentials;
use pki::Pki;
use store::Store;
use token::Signer;

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
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        }
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

/// What all requests share.
struct Server {
    store: Store,
    registry: Registry,
    signer: Signer,
    pki: Pki,
    backend: OnceLock<Arc<dyn PodBackend>>,
    services: services::Addresses,
    stop: CancellationToken,
}

/// A running server.
pub struct ServerHandle {
    server: Arc<Server>,
    addresses: Vec<SocketAddr>,
    tasks: tokio::task::JoinSet<()>,
}

impl ServerHandle {
    /// Where the server listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The cluster CA certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        self.server.pki.ca_pem()
    }

    /// Gives the server its node; a second call is ignored.
    pub fn set_backend(&self, backend: Arc<dyn PodBackend>) {
        if self.server.backend.set(backend).is_err() {
            tracing::warn!("the node backend is set already");
        }
    }

    /// A freshly issued client certificate.
    pub fn issue_client(&self, user: &ClientUser) -> Result<ClientCredentials, StartError> {
        self.server.pki.issue_client(user)
    }

    /// A kubeconfig (YAML) with a freshly issued client certificate; `server_url` like `https://127.0.0.1:6443`.
    pub fn kubeconfig(&self, server_url: &str, user: &ClientUser) -> Result<String, StartError> {
        self.server.pki.kubeconfig(server_url, user)
    }

    /// Stops accepting, ends open connections, closes the store.
    pub async fn shutdown(mut self) {
        self.server.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let server = self.server.clone();
        // Joining the writer thread blocks for at most one commit.
        let _ = tokio::task::spawn_blocking(move || server.store.close()).await;
    }
}

/// Starts the server; returns when it answers.
pub async fn start(config: Config) -> Result<ServerHandle, StartError> {
    // The process may have installed it already; only its presence matters.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let services = services::Addresses::new(&config.service_cidrs)?;
    let pki = Pki::open(&config.data_dir)?;
    let addresses = local_addresses(&config.listeners)?;
    let (names, ips) = subject_names(&config, &addresses, &services);
    let tls = server::tls(&pki, &names, &ips)?;
    let signer = Signer::new(pki.service_account_key())?;
    let path = config.data_dir.join("store.redb");
    let store = tokio::task::spawn_blocking(move || Store::open(&path))
        .await
        .map_err(|e| StartError::Config(format!("opening the store: {e}")))??;
    let backend = OnceLock::new();
    if let Some(given) = config.backend {
        let _ = backend.set(given);
    }
    let stop = CancellationToken::new();
    let server = Arc::new(Server {
        store,
        registry: Registry::default(),
        signer,
        pki,
        backend,
        services,
        stop: stop.clone(),
    });
    bootstrap::run(&server, config.advertise).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for listener in config.listeners {
        let fail = |e: std::io::Error| StartError::Config(format!("listener: {e}"));
        listener.set_nonblocking(true).map_err(fail)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(fail)?;
        tasks.spawn(server::accept(
            listener,
            tls.clone(),
            server.clone(),
            stop.clone(),
        ));
    }
    tasks.spawn(rest::crds::resume(server.clone()));
    Ok(ServerHandle {
        server,
        addresses,
        tasks,
    })
}

fn local_addresses(listeners: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    if listeners.is_empty() {
        return Err(StartError::Config("no listener given".to_owned()));
    }
    listeners
        .iter()
        .map(|l| {
            l.local_addr()
                .map_err(|e| StartError::Config(format!("listener: {e}")))
        })
        .collect()
}

fn subject_names(
    config: &Config,
    addresses: &[SocketAddr],
    services: &services::Addresses,
) -> (Vec<String>, Vec<IpAddr>) {
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut ips: Vec<IpAddr> = vec![
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    ];
    ips.extend(services.first_of_each());
    ips.extend(config.advertise.map(|a| a.ip()));
    ips.extend(
        addresses
            .iter()
            .map(SocketAddr::ip)
            .filter(|ip| !ip.is_unspecified()),
    );
    for san in &config.extra_sans {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(san.clone()),
        }
    }
    ips.sort();
    ips.dedup();
    (names, ips)
}
