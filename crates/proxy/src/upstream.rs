//! Connections to endpoints: TCP, then TLS where the cluster wants it, within one deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cluster::{
    Chosen, Cluster, ConnectionSlot, Discovery, EndpointConfig, Outcome, Overflow,
};
use crate::net::{Socket, Stream};
use crate::reason::Reason;
use crate::stats::ClusterStats;
use crate::tls::{Speaks, is_outlived};

/// Counts a connection while it lives, and holds its place under the limit.
#[derive(Debug)]
pub struct Connected {
    stats: Arc<ClusterStats>,
    _slot: ConnectionSlot,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP.
    #[error("connecting: {0}")]
    Tcp(#[source] io::Error),
    /// TLS.
    #[error("TLS handshake: {0}")]
    Tls(#[source] io::Error),
    /// Time is up.
    #[error("not connected within {0:?}")]
    Timeout(std::time::Duration),
    /// Secrets are missing.
    #[error("the cluster's TLS secrets have not arrived")]
    Secrets,
    /// The cluster has as many connections as it may.
    #[error(transparent)]
    Overflow(#[from] Overflow),
}

impl ConnectError {
    /// What it says of the endpoint, if anything.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            ConnectError::Tcp(_) | ConnectError::Tls(_) => Some(Outcome::ConnectFailed),
            ConnectError::Timeout(_) => Some(Outcome::ConnectTimeout),
            ConnectError::Secrets | ConnectError::Overflow(_) => None,
        }
    }

    /// The reason as logs and replies name it.
    pub fn reason(&self) -> Reason {
        match self {
            ConnectError::Tcp(_) => Reason::ConnectFailed,
            ConnectError::Tls(_) => Reason::UpstreamTls,
            ConnectError::Timeout(_) => Reason::ConnectTimeout,
            ConnectError::Secrets => Reason::SecretsMissing,
            ConnectError::Overflow(_) => Reason::UpstreamOverflow,
        }
    }
}

/// Waits while a cluster's endpoints are being looked for, as long as connecting may take: a cluster that has just
/// been configured must not answer as one without endpoints.
pub async fn settled(cluster: &Cluster) {
    let is_settled = || {
        matches!(cluster.config.discovery, Discovery::OriginalDestination)
            || cluster.resolved.load(Ordering::Acquire)
    };
    if is_settled() {
        return;
    }
    let waiting = async {
        loop {
            // Listen first, look then: what is told in between is not missed.
            let mut arrived = std::pin::pin!(cluster.arrived.notified());
            arrived.as_mut().enable();
            if is_settled() {
                return;
            }
            arrived.await;
        }
    };
    let _ = timeout(cluster.config.connect_timeout, waiting).await;
}

/// Opens a connection. `needed`: the caller's pool has none at all and its requests would wait for ever, so that one
/// is opened even if the cluster has as many as it may.
pub async fn connect(
    chosen: &Chosen,
    speaks: Speaks,
    needed: bool,
) -> Result<(Stream, Connected), ConnectError> {
    let (cluster, endpoint) = (&chosen.cluster, &chosen.endpoint);
    let slot = cluster.connection_slot(endpoint, chosen.priority, needed)?;
    let limit = cluster.config.connect_timeout;
    let stats = &cluster.stats;
    stats.connections.increment();
    let begun = Instant::now();
    endpoint.stats.connections.increment();
    let opened = match timeout(
        limit,
        open(cluster, &endpoint.config, endpoint.config.address, speaks),
    )
    .await
    {
        Ok(opened) => opened,
        Err(_) => {
            stats.connect_timeouts.increment();
            Err(ConnectError::Timeout(limit))
        }
    };
    match opened {
        Ok(stream) => {
            stats.connections_active.add(1);
            stats.connect_time.record(begun.elapsed());
            let connected = Connected {
                stats: stats.clone(),
                _slot: slot,
            };
            Ok((stream, connected))
        }
        Err(error) => {
            stats.connect_failures.increment();
            endpoint.stats.connect_failures.increment();
            let address = endpoint.config.address;
            tracing::debug!(cluster = %cluster.config.name, %address, %error, "upstream connection failed");
            Err(error)
        }
    }
}

/// Opens a connection for an endpoint, at its own or another address, without a limit of time.
pub async fn open(
    cluster: &Cluster,
    endpoint: &EndpointConfig,
    address: SocketAddr,
    speaks: Speaks,
) -> Result<Stream, ConnectError> {
    // Decide on TLS first: without its secrets nothing may leave in plain text.
    let tls = match cluster.config.tls {
        Some(_) => Some(cluster.tls.load_full().ok_or(ConnectError::Secrets)?),
        None => None,
    };
    let socket = Socket::connect(address, &cluster.config.socket)
        .await
        .map_err(ConnectError::Tcp)?;
    match tls {
        None => Ok(Stream::Plain(socket)),
        Some(tls) => {
            let connector = TlsConnector::from(tls.config(speaks));
            let stream = connector
                .connect(tls.name(&endpoint.hostname), socket.reading_ahead())
                .await
                .map_err(ConnectError::Tls)?;
            if is_outlived(stream.get_ref().1) {
                let why = "a resumed session's certificate has expired";
                return Err(ConnectError::Tls(io::Error::other(why)));
            }
            Ok(Stream::Client(Box::new(stream)))
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.stats.connections_active.add(-1);
    }
}
