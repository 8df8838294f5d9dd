//! The management server: our own ADS state machine behind gRPC in the clear, for any node that asks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::{Stream as Incoming, StreamExt};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use xds::client::Kind;
use xds::resources::Snapshot;
use xds::server::{self, Mode, Stream};

use crate::{PATIENCE, Resources};

/// A proxy's refusal, with its own words in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it refused.
    pub kind: Kind,
    /// Why.
    pub message: String,
}

/// The server; it ends with this value.
#[derive(Debug)]
pub struct Ads {
    address: SocketAddr,
    nodes: Arc<Nodes>,
    task: JoinHandle<()>,
}

/// What is known of each node.
#[derive(Debug, Default)]
struct Nodes(Mutex<HashMap<String, Arc<Node>>>);

#[derive(Debug)]
struct Node {
    /// What it is to have, with a generation.
    target: watch::Sender<(u64, Arc<Snapshot>)>,
    state: watch::Sender<State>,
}

/// What a node answered.
#[derive(Clone, Debug, Default)]
struct State {
    /// Every response of this generation is answered.
    settled: Option<u64>,
    /// Refusals since the last change.
    refusals: Vec<Refusal>,
    /// Refusals since the start.
    history: Vec<Refusal>,
    /// ACKs per kind since the start.
    acks: HashMap<&'static str, u64>,
    /// Streams opened.
    streams: u64,
}

// === impl Ads ===

impl Ads {
    /// Starts on a free port of loopback.
    pub async fn start() -> Ads {
        Ads::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts at an address: for a server that comes back.
    pub async fn start_at(address: SocketAddr) -> Ads {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let nodes = Arc::new(Nodes::default());
        let service = AggregatedDiscoveryServiceServer::new(Service(nodes.clone()))
            .max_decoding_message_size(64 << 20);
        let task = tokio::spawn(async move {
            let router = tonic::transport::Server::builder().add_service(service);
            let _ = router
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
        });
        Ads {
            address,
            nodes,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what a node is to have; it is told at once if it is connected.
    pub fn set(&self, node: &str, resources: Resources) {
        self.replace(node, resources.snapshot());
    }

    /// As [`Ads::set`], with a snapshot such as `xds::resources::snapshot` makes from a model.
    pub fn replace(&self, node: &str, snapshot: Arc<Snapshot>) {
        let node = self.nodes.node(node);
        node.state.send_modify(|state| {
            state.refusals.clear();
            state.settled = None;
        });
        node.target.send_modify(|(generation, target)| {
            (*generation, *target) = (*generation + 1, snapshot)
        });
    }

    /// Waits until the node answered all of what was set last; its refusals, if there are any.
    pub async fn settled(&self, node: &str) -> Result<(), Vec<Refusal>> {
        let name = node;
        let node = self.nodes.node(node);
        let generation = node.target.borrow().0;
        let mut state = node.state.subscribe();
        let settled = state.wait_for(|state| state.settled == Some(generation));
        let state = match tokio::time::timeout(PATIENCE, settled).await {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!(
                "{name} did not answer within {PATIENCE:?}: {:?}",
                self.refusals(name)
            ),
        };
        match state.refusals {
            refusals if refusals.is_empty() => Ok(()),
            refusals => Err(refusals),
        }
    }

    /// What the node refused since the last change.
    pub fn refusals(&self, node: &str) -> Vec<Refusal> {
        self.nodes.node(node).state.borrow().refusals.clone()
    }

    /// What the node refused since the start.
    pub fn history(&self, node: &str) -> Vec<Refusal> {
        self.nodes.node(node).state.borrow().history.clone()
    }

    /// How many responses of a kind the node accepted since the start.
    pub fn acks(&self, node: &str, kind: Kind) -> u64 {
        let node = self.nodes.node(node);
        let state = node.state.borrow();
        state.acks.get(kind.type_url()).copied().unwrap_or_default()
    }

    /// How many streams the node opened.
    pub fn streams(&self, node: &str) -> u64 {
        self.nodes.node(node).state.borrow().streams
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Nodes ===

impl Nodes {
    fn node(&self, id: &str) -> Arc<Node> {
        let mut nodes = self.0.lock();
        let node = nodes.entry(id.to_owned()).or_insert_with(|| {
            Arc::new(Node {
                target: watch::Sender::new((0, Resources::default().snapshot())),
                state: watch::Sender::default(),
            })
        });
        node.clone()
    }
}

// === the gRPC service ===

struct Service(Arc<Nodes>);

/// A request with the node id it may carry.
type Asked = Result<(Option<String>, server::Request), Status>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let incoming = request.into_inner().map(|message| {
            message.map(|message| {
                (
                    id(message.node.as_ref()),
                    full(message, |m| &m.error_detail),
                )
            })
        });
        Ok(Response::new(self.open(Mode::StateOfTheWorld, incoming)))
    }

    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let incoming = request.into_inner().map(|message| {
            message.map(|message| {
                (
                    id(message.node.as_ref()),
                    full(message, |m| &m.error_detail),
                )
            })
        });
        Ok(Response::new(self.open(Mode::Delta, incoming)))
    }
}

fn id(node: Option<&envoy_types::pb::envoy::config::core::v3::Node>) -> Option<String> {
    node.map(|node| node.id.clone())
}

/// The request with the refusal's whole text: the state machine keeps only its beginning.
fn full<M>(
    message: M,
    detail: impl Fn(&M) -> &Option<envoy_types::pb::google::rpc::Status>,
) -> server::Request
where
    server::Request: From<M>,
{
    let text = detail(&message)
        .as_ref()
        .map(|status| status.message.clone());
    server::Request {
        refusal: text,
        ..message.into()
    }
}

impl Service {
    fn open<M>(
        &self,
        mode: Mode,
        incoming: impl Incoming<Item = Asked> + Send + Unpin + 'static,
    ) -> ReceiverStream<Result<M, Status>>
    where
        M: From<server::Response> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(16);
        let nodes = self.0.clone();
        tokio::spawn(async move {
            // The peer's end ends the task; so does the server's, which drops the incoming stream.
            let _ = serve(mode, &nodes, incoming, &sender).await;
        });
        ReceiverStream::new(receiver)
    }
}

async fn serve<M>(
    mode: Mode,
    nodes: &Nodes,
    mut incoming: impl Incoming<Item = Asked> + Unpin,
    sender: &mpsc::Sender<Result<M, Status>>,
) -> Option<()>
where
    M: From<server::Response> + Send + 'static,
{
    let (id, first) = incoming.next().await?.ok()?;
    let node = nodes.node(&id.unwrap_or_default());
    node.state.send_modify(|state| {
        state.streams += 1;
        state.settled = None;
    });
    let mut target = node.target.subscribe();
    let (mut generation, snapshot) = target.borrow_and_update().clone();
    let mut stream = Stream::new(mode, snapshot);
    let mut next = Some(first);
    let mut is_changed = false;
    loop {
        let mut responses = Vec::new();
        if let Some(request) = next.take() {
            responses = take(&mut stream, &node, request)?;
        }
        if std::mem::take(&mut is_changed) {
            let (new, snapshot) = target.borrow_and_update().clone();
            generation = new;
            responses.extend(stream.update(snapshot, Instant::now()));
        }
        if stream.deadline().is_some_and(|at| at <= Instant::now()) {
            responses.extend(stream.tick(Instant::now()));
        }
        for response in responses {
            sender.send(Ok(response.into())).await.ok()?;
        }
        let settled = stream.is_settled().then_some(generation);
        node.state.send_if_modified(|state| {
            let changed = state.settled != settled;
            state.settled = settled;
            changed
        });
        let wait = stream.deadline().map_or(Duration::from_secs(3600), |at| {
            at.saturating_duration_since(Instant::now())
        });
        tokio::select! {
            request = incoming.next() => next = Some(request?.ok()?.1),
            changed = target.changed() => {
                changed.ok()?;
                is_changed = true;
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Hands a request to the state machine and notes what it says.
fn take(
    stream: &mut Stream,
    node: &Node,
    request: server::Request,
) -> Option<Vec<server::Response>> {
    let url = Kind::of(&request.type_url).map(Kind::type_url);
    let is_ack = !request.nonce.is_empty() && request.refusal.is_none();
    let outcome = stream.request(request, Instant::now()).ok()?;
    node.state.send_if_modified(|state| {
        if let Some(nack) = &outcome.nack {
            let refusal = Refusal {
                kind: nack.kind,
                message: nack.message.clone(),
            };
            state.refusals.push(refusal.clone());
            state.history.push(refusal);
        } else if let (true, Some(url)) = (is_ack, url) {
            *state.acks.entry(url).or_default() += 1;
        }
        true
    });
    Some(outcome.responses)
}
