//! The connection to the control plane: gRPC over TLS against the mesh's root.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::bootstrap::AdsSource;
use crate::cluster::{ChoiceContext, Chosen};
use crate::net::Stream;
use crate::settings::Settings;
use crate::tls::OwnCertificate;
use crate::tls::Speaks;
use crate::upstream::{Connected, connect, settled};
use crate::worker::{Shared, roll};

/// TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life, so that a control plane that vanished is noticed.
const PING: Duration = Duration::from_secs(20);
/// First wait after a failure; it doubles …
const FIRST: Duration = Duration::from_millis(100);
/// … up to this: a control plane that is back is found within seconds.
const MOST: Duration = Duration::from_secs(5);

/// How to reach the control plane.
pub struct ControlPlane {
    way: Way,
}

enum Way {
    Direct(Box<Direct>),
    /// A cluster of the bootstrap file.
    Cluster {
        source: AdsSource,
        shared: Arc<Shared>,
    },
}

/// By the settings' address, with our own certificate.
struct Direct {
    address: String,
    name: ServerName<'static>,
    roots: Vec<CertificateDer<'static>>,
    anonymous: Arc<ClientConfig>,
    identified: Arc<ClientConfig>,
}

/// How long to wait after so many failures: doubling, with jitter from a half to the whole.
pub fn backoff(failures: u32, roll: u64) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.min(10)).min(MOST);
    let thousandths = u32::try_from(500 + roll % 501).unwrap_or(1000);
    whole.saturating_mul(thousandths) / 1000
}

// === impl ControlPlane ===

impl ControlPlane {
    /// The control plane of the settings; our certificate is shown where it is asked for.
    pub fn new(settings: &Settings, own: Arc<OwnCertificate>) -> anyhow::Result<ControlPlane> {
        let roots = ca::parse_certificates(&settings.root_ca).context("OSM_ROOT_CA")?;
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).context("OSM_ROOT_CA")?;
        }
        anyhow::ensure!(!store.is_empty(), "OSM_ROOT_CA holds no certificate");
        let store = Arc::new(store);
        let name = ServerName::try_from(settings.xds_server_name.clone())
            .with_context(|| format!("OSM_XDS_SERVER_NAME {:?}", settings.xds_server_name))?;
        let mut anonymous = ClientConfig::builder()
            .with_root_certificates(store.clone())
            .with_no_client_auth();
        let mut identified = ClientConfig::builder()
            .with_root_certificates(store)
            .with_client_cert_resolver(own);
        anonymous.alpn_protocols = vec![b"h2".to_vec()];
        identified.alpn_protocols = vec![b"h2".to_vec()];
        Ok(ControlPlane {
            way: Way::Direct(Box::new(Direct {
                address: settings.xds_address.clone(),
                name,
                roots,
                anonymous: Arc::new(anonymous),
                identified: Arc::new(identified),
            })),
        })
    }

    /// The control plane behind a cluster of the bootstrap file.
    pub fn of_cluster(source: &AdsSource, shared: Arc<Shared>) -> ControlPlane {
        ControlPlane {
            way: Way::Cluster {
                source: source.clone(),
                shared,
            },
        }
    }

    /// Whether a certificate is one of the roots.
    pub fn is_root(&self, certificate: &CertificateDer<'_>) -> bool {
        match &self.way {
            Way::Direct(direct) => direct.roots.iter().any(|root| root == certificate),
            Way::Cluster { .. } => false,
        }
    }

    /// Connects, with our certificate or without.
    pub async fn connect(&self, identified: bool) -> anyhow::Result<Channel> {
        let (what, connecting) = match &self.way {
            Way::Direct(direct) => {
                let what = format!("the control plane {}", direct.address);
                (what, direct.connect(identified).boxed())
            }
            Way::Cluster { source, shared } => {
                let what = format!("the control plane's cluster {:?}", source.cluster);
                (what, through(source, shared).boxed())
            }
        };
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected.with_context(|| format!("connecting to {what}")),
            Err(_) => anyhow::bail!("connecting to {what}: not within {CONNECT:?}"),
        }
    }
}

impl Direct {
    async fn connect(&self, identified: bool) -> anyhow::Result<Channel> {
        let config = if identified {
            &self.identified
        } else {
            &self.anonymous
        };
        let connector = TlsConnector::from(config.clone());
        let (address, name) = (self.address.clone(), self.name.clone());
        let open = move |_: Uri| {
            let (connector, address, name) = (connector.clone(), address.clone(), name.clone());
            async move {
                let tcp = TcpStream::connect(&address).await?;
                tcp.set_nodelay(true)?;
                let tls = connector.connect(name, tcp).await?;
                Ok::<_, std::io::Error>(TokioIo::new(tls))
            }
        };
        let channel = endpoint(&self.address)
            .with_context(|| format!("OSM_XDS_ADDRESS {:?}", self.address))?
            .connect_with_connector(service_fn(open))
            .await?;
        Ok(channel)
    }
}

/// A channel over a connection of a cluster, which knows addresses and TLS.
async fn through(source: &AdsSource, shared: &Arc<Shared>) -> anyhow::Result<Channel> {
    let (name, shared) = (source.cluster.clone(), shared.clone());
    let open = move |_: Uri| {
        let (name, shared) = (name.clone(), shared.clone());
        async move {
            let connection = connection(&name, &shared).await;
            connection.map(TokioIo::new).map_err(std::io::Error::other)
        }
    };
    // A cluster's name need not be an authority; the control plane does not look at it.
    let authority = match source.authority.as_str() {
        "" => &source.cluster,
        authority => authority,
    };
    let endpoint = endpoint(authority).or_else(|_| endpoint("xds"))?;
    Ok(endpoint.connect_with_connector(service_fn(open)).await?)
}

async fn connection(name: &str, shared: &Shared) -> anyhow::Result<Held> {
    let snapshot = shared.snapshot.load_full();
    let cluster = snapshot.clusters.get(name).context("no such cluster")?;
    settled(cluster).await;
    let chosen = cluster
        .choose(&ChoiceContext::of_proxy(roll()))
        .ok()
        .context("the cluster has no endpoint")?;
    let (stream, connected) = connect(&chosen, Speaks::Http2, true).await?;
    Ok(Held {
        stream,
        _chosen: chosen,
        _connected: connected,
    })
}

// The scheme is only tonic's: TLS is the connector's business.
fn endpoint(authority: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))?;
    Ok(endpoint
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING / 2)
        .keep_alive_while_idle(true))
}

/// A connection that counts while it lives.
struct Held {
    stream: Stream,
    _chosen: Chosen,
    _connected: Connected,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_a_bound() {
        let cases = [
            (0, 0, 50),
            (0, 500, 100),
            (1, 500, 200),
            (3, 0, 400),
            (30, 500, 5000),
            (u32::MAX, 0, 2500),
        ];
        for (failures, roll, expected) in cases {
            assert_eq!(
                backoff(failures, roll),
                Duration::from_millis(expected),
                "{failures} {roll}"
            );
        }
    }
}
