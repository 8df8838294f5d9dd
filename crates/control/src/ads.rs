//! The aggregated discovery service: who may open a stream, and the stream's life.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ca::Identity;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use xds::server::{self, Mode};

use crate::metrics::{Metric, Metrics};
use crate::nacks::Nacks;
use crate::push::Push;
use crate::session::Session;
use crate::tls::Peer;
use crate::world::Worlds;

/// Responses waiting in a stream; the session waits when the proxy reads too slowly.
const QUEUE_BOUND: usize = 4;

/// Streams of one controller, whatever the MeshConfig says.
const STREAM_BOUND: usize = 20_000;

/// Proxies that are told much at a time: enough to keep a processor busy while they read and answer.
pub(crate) const TURNS: usize = 32;

/// Time a proxy has for its first request.
const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// The service.
pub(crate) struct Ads {
    /// Shared with all sessions.
    pub(crate) shared: Arc<Shared>,
}

/// What all sessions use.
pub(crate) struct Shared {
    /// Newest state.
    pub(crate) worlds: Worlds,
    /// The mesh's trust domain.
    pub(crate) trust_domain: String,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// What proxies refused.
    pub(crate) nacks: Arc<Nacks>,
    /// Namespace and name of the MeshConfig.
    pub(crate) mesh_config: families::Key,
    /// What each proxy is to be told.
    pub(crate) push: Arc<Push>,
    /// Proxies that are told much, at a time.
    pub(crate) turns: Arc<Semaphore>,
    /// Open streams.
    pub(crate) streams: AtomicUsize,
    /// The program's end.
    pub(crate) stop: CancellationToken,
    /// Owns the sessions.
    pub(crate) tasks: TaskTracker,
}

/// A request with the node that comes in a stream's first one.
pub(crate) type Incoming = BoxStream<'static, Result<(Option<Node>, server::Request), Status>>;

/// Counts a stream while it lives.
pub(crate) struct StreamSlot(Arc<Shared>);

// === impl Ads ===

impl Ads {
    /// Opens a stream of requests for the peer.
    pub(crate) fn open<M>(
        &self,
        mode: Mode,
        peer: Option<Peer>,
        incoming: Incoming,
    ) -> Result<ReceiverStream<Result<M, Status>>, Status>
    where
        M: From<server::Response> + Send + 'static,
    {
        let identity = authenticate(peer, &self.shared.trust_domain)?;
        let slot = StreamSlot::take(&self.shared)?;
        let (sender, receiver) = mpsc::channel(QUEUE_BOUND);
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            let status = serve(mode, shared, identity, incoming, &sender).await;
            if let Err(status) = status {
                tracing::info!(code = ?status.code(), reason = status.message(), "stream ended");
                let _ = sender.try_send(Err(status));
            }
            drop(slot);
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// The identity of the verified certificate; a stream without one is refused.
fn authenticate(peer: Option<Peer>, trust_domain: &str) -> Result<Identity, Status> {
    let peer = peer.ok_or_else(|| Status::internal("connection without peer"))?;
    let Some(identity) = peer.identity else {
        tracing::info!(address = %peer.address, "stream without client certificate");
        return Err(Status::unauthenticated(
            "a client certificate of the mesh is required",
        ));
    };
    if identity.trust_domain != trust_domain {
        return Err(Status::unauthenticated(format!(
            "{identity} is not of trust domain {trust_domain}"
        )));
    }
    Ok(identity)
}

/// A session from its first request to its end.
async fn serve<M>(
    mode: Mode,
    shared: Arc<Shared>,
    identity: Identity,
    mut incoming: Incoming,
    sender: &mpsc::Sender<Result<M, Status>>,
) -> Result<(), Status>
where
    M: From<server::Response> + Send + 'static,
{
    let first = tokio::time::timeout(FIRST_REQUEST_DEADLINE, incoming.next()).await;
    let (node, request) = match first {
        Ok(Some(first)) => first?,
        Ok(None) => return Ok(()),
        Err(_) => return Err(Status::deadline_exceeded("no request on the stream")),
    };
    let uuid = proxy_uuid(node.as_ref(), &identity)?;
    let session = Session::open(mode, shared, identity, uuid).await?;
    session.run(request, incoming, sender).await
}

/// The proxy's UUID in its node id `<uuid>.sidecar.<sa>.<namespace>.<trust-domain>`, of which
/// everything but the UUID is determined by the certificate.
fn proxy_uuid(node: Option<&Node>, identity: &Identity) -> Result<String, Status> {
    let id = node.map(|node| node.id.as_str()).unwrap_or_default();
    let suffix = format!(".sidecar.{}", identity.dns_name());
    match id.strip_suffix(&suffix) {
        Some(uuid) if !uuid.is_empty() && uuid.len() <= 63 => Ok(uuid.to_owned()),
        _ => {
            let message = format!(
                "node.id {id:.256?} does not belong to the certificate's identity {identity}"
            );
            Err(Status::permission_denied(message))
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let incoming = request.into_inner().map(|message| {
            message.map(|mut message| (message.node.take(), server::Request::from(message)))
        });
        self.open(Mode::StateOfTheWorld, peer, incoming.boxed())
            .map(Response::new)
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("served by another way"))
    }
}

// === impl StreamSlot ===

impl StreamSlot {
    /// Takes a slot unless the controller or the MeshConfig's limit is exhausted.
    fn take(shared: &Arc<Shared>) -> Result<Self, Status> {
        let configured = shared
            .worlds
            .clone()
            .current()
            .and_then(|world| world.settings.stream_limit);
        let limit = configured.unwrap_or(STREAM_BOUND).min(STREAM_BOUND);
        if shared.streams.fetch_add(1, Ordering::AcqRel) >= limit {
            shared.streams.fetch_sub(1, Ordering::AcqRel);
            shared.metrics.add(Metric::Rejected, &[], 1);
            return Err(Status::resource_exhausted(format!(
                "more than {limit} proxies are connected"
            )));
        }
        shared.metrics.add(Metric::ConnectedProxies, &[], 1);
        Ok(Self(shared.clone()))
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.add(Metric::ConnectedProxies, &[], -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_must_fit_the_certificate() {
        let identity = Identity::new("cluster.local", "curl", "demo").unwrap();
        for (id, uuid) in [
            ("u-1.sidecar.curl.demo.cluster.local", Some("u-1")),
            ("u-1.sidecar.curl.other.cluster.local", None),
            ("u-1.sidecar.demo.curl.cluster.local", None),
            (".sidecar.curl.demo.cluster.local", None),
            ("u-1.gateway.curl.demo.cluster.local", None),
            ("", None),
        ] {
            let node = Node {
                id: id.to_owned(),
                ..Node::default()
            };
            assert_eq!(
                proxy_uuid(Some(&node), &identity).ok().as_deref(),
                uuid,
                "{id}"
            );
        }
        assert!(proxy_uuid(None, &identity).is_err());
    }

    #[test]
    fn only_a_verified_certificate_of_the_trust_domain_opens_a_stream() {
        let address = "127.0.0.1:1".parse().unwrap();
        let peer = |td: &str| Peer {
            address,
            identity: Some(Identity::new(td, "curl", "demo").unwrap()),
        };
        assert!(authenticate(Some(peer("cluster.local")), "cluster.local").is_ok());
        assert!(authenticate(Some(peer("other.domain")), "cluster.local").is_err());
        assert!(
            authenticate(
                Some(Peer {
                    address,
                    identity: None
                }),
                "cluster.local"
            )
            .is_err()
        );
        assert!(authenticate(None, "cluster.local").is_err());
    }
}
