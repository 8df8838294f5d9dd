//! The control plane of the measured proxies: a fixed snapshot for each node id, over plain HTTP/2 on loopback.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use xds::resources::Snapshot;
use xds::server::{Mode, Stream};

/// Responses that wait in a stream.
const QUEUE: usize = 64;
/// How often a push is looked after that waits for an answer.
const TICK: Duration = Duration::from_millis(200);

/// What each node is told, and what nodes refused.
#[derive(Debug, Clone, Default)]
pub struct Ads {
    snapshots: Arc<Mutex<HashMap<String, Arc<Snapshot>>>>,
    refusals: Arc<Mutex<Vec<String>>>,
}

// === impl Ads ===

impl Ads {
    /// Serves on a port of its own.
    pub async fn serve(&self) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let service = AggregatedDiscoveryServiceServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(address)
    }

    /// What a node is told; before it asks.
    pub fn tell(&self, node: &str, snapshot: Snapshot) {
        self.snapshots
            .lock()
            .insert(node.to_owned(), Arc::new(snapshot));
    }

    /// What nodes refused so far.
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().clone()
    }

    async fn session<I, O>(
        &self,
        mode: Mode,
        mut incoming: Streaming<I>,
        send: mpsc::Sender<Result<O, Status>>,
    ) -> Option<()>
    where
        I: Into<xds::server::Request> + HasNode,
        O: From<xds::server::Response>,
    {
        let first = incoming.message().await.ok()??;
        let node = first.node().to_owned();
        let snapshot = self.snapshots.lock().get(&node).cloned()?;
        let mut stream = Stream::new(mode, snapshot);
        let mut next = Some(first);
        loop {
            let responses = match next.take() {
                Some(request) => {
                    let outcome = stream.request(request.into(), Instant::now()).ok()?;
                    if let Some(nack) = outcome.nack {
                        self.refusals.lock().push(format!(
                            "{node}: {}: {}",
                            nack.kind.short(),
                            nack.message
                        ));
                    }
                    outcome.responses
                }
                None => stream.tick(Instant::now()),
            };
            for response in responses {
                send.send(Ok(response.into())).await.ok()?;
            }
            // Cancel-safe: a message is taken whole or stays.
            tokio::select! {
                message = incoming.message() => next = Some(message.ok()??),
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }
}

/// Requests name their node in a stream's first one.
trait HasNode {
    fn node(&self) -> &str;
}

impl HasNode for DiscoveryRequest {
    fn node(&self) -> &str {
        self.node.as_ref().map_or("", |node| &node.id)
    }
}

impl HasNode for DeltaDiscoveryRequest {
    fn node(&self) -> &str {
        self.node.as_ref().map_or("", |node| &node.id)
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
        let (send, responses) = mpsc::channel(QUEUE);
        let ads = self.clone();
        tokio::spawn(async move {
            ads.session(Mode::StateOfTheWorld, request.into_inner(), send)
                .await
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (send, responses) = mpsc::channel(QUEUE);
        let ads = self.clone();
        tokio::spawn(async move { ads.session(Mode::Delta, request.into_inner(), send).await });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
