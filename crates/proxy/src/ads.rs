//! The ADS stream: a thin shell around the xDS machine, and what happens when the configuration changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use futures::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};
use xds::client::{Machine, Mode, Request, Response};

use crate::cluster::Upkeep;
use crate::config::{ConfigParser, Resource};
use crate::control_plane::{ControlPlane, backoff};
use crate::listeners::Listeners;
use crate::snapshot::{Builder, drain_removed};
use crate::worker::{Shared, roll};

/// A response may hold a mesh's whole configuration; tonic's default of 4 MiB is some 5 000 clusters.
const MESSAGE: usize = 64 << 20;
/// Requests that wait for the stream; a response is answered by four at most.
const QUEUE: usize = 64;
/// A port in use, or a certificate that has not arrived, is looked at again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// Responses applied before the snapshot is made, if they come that fast.
const BATCH: usize = 16;

/// The configuration as it is received and applied.
pub struct Ads {
    /// What the control plane sent.
    pub machine: Arc<Mutex<Machine<Resource>>>,
    /// Typed configuration from protobuf.
    pub parser: ConfigParser,
    /// Snapshots from typed configuration.
    pub builder: Builder,
    /// Where snapshots go.
    pub shared: Arc<Shared>,
    /// Sockets.
    pub listeners: Arc<Mutex<Listeners>>,
    /// What clusters need done in the background.
    pub upkeep: Upkeep,
    /// Who we are.
    pub node: Node,
    /// The stream waits for our own certificate.
    pub needs_identity: bool,
    /// The stream brought something.
    pub heard: bool,
}

impl Ads {
    /// Follows the control plane for ever; the last good configuration serves while it is away. Without a control
    /// plane the bootstrap file's resources are all there is.
    pub async fn run(mut self, plane: Option<Arc<ControlPlane>>) {
        self.apply();
        let Some(plane) = plane else {
            loop {
                self.idle(Duration::from_secs(60)).await;
            }
        };
        let mut failures = 0u32;
        loop {
            while self.needs_identity && self.shared.own.current().is_none() {
                sleep(Duration::from_millis(50)).await; // ADS is for those who are somebody.
            }
            self.heard = false;
            let ended = self.follow(&plane).await;
            self.shared.stats.server.connected.set(0);
            if self.heard {
                failures = 0;
            }
            let wait = backoff(failures, roll());
            failures = failures.saturating_add(1);
            let error = ended
                .err()
                .unwrap_or_else(|| anyhow!("the control plane closed the stream"));
            warn!(error = format!("{error:#}"), retry_in = ?wait, "xDS stream ended");
            self.idle(wait).await;
        }
    }

    /// One stream, from its opening to its end.
    async fn follow(&mut self, plane: &ControlPlane) -> anyhow::Result<()> {
        let channel = plane.connect(true).await?;
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE);
        let (sender, receiver) = mpsc::channel::<Request>(QUEUE);
        let requests = self.machine.lock().start(self.node.clone());
        for request in requests {
            sender.send(request).await?;
        }
        let outgoing = ReceiverStream::new(receiver);
        let mode = self.machine.lock().mode();
        match mode {
            Mode::Delta => {
                let outgoing = outgoing.filter_map(|request| async move {
                    match request {
                        Request::Delta(request) => Some(*request),
                        Request::StateOfTheWorld(_) => None,
                    }
                });
                let incoming = client
                    .delta_aggregated_resources(outgoing)
                    .await
                    .map_err(|status| told(&status))?;
                self.converse(incoming.into_inner().map(|m| m.map(Response::from)), sender)
                    .await
            }
            Mode::StateOfTheWorld => {
                let outgoing = outgoing.filter_map(|request| async move {
                    match request {
                        Request::StateOfTheWorld(request) => Some(*request),
                        Request::Delta(_) => None,
                    }
                });
                let incoming = client
                    .stream_aggregated_resources(outgoing)
                    .await
                    .map_err(|status| told(&status))?;
                self.converse(incoming.into_inner().map(|m| m.map(Response::from)), sender)
                    .await
            }
        }
    }

    async fn converse<S>(
        &mut self,
        incoming: S,
        sender: mpsc::Sender<Request>,
    ) -> anyhow::Result<()>
    where
        S: Stream<Item = Result<Response, tonic::Status>>,
    {
        let mut incoming = std::pin::pin!(incoming);
        self.shared.stats.server.connected.set(1);
        self.shared.stats.server.streams.increment();
        info!("xDS stream open");
        let mut waiting = 0;
        loop {
            let ready = incoming.next().now_or_never();
            if waiting > 0 && (ready.is_none() || waiting >= BATCH) {
                self.apply();
                waiting = 0;
            }
            let item = match ready {
                Some(item) => item,
                // Cancel-safe: a stream's item is not lost when the timer wins.
                None => tokio::select! {
                    item = incoming.next() => item,
                    () = sleep(self.next_look()) => {
                        self.look_again();
                        continue;
                    }
                },
            };
            let Some(item) = item else {
                self.apply();
                return Ok(());
            };
            for request in self.receive(item.map_err(|status| told(&status))?) {
                sender.send(request).await?;
            }
            waiting += 1;
        }
    }

    fn receive(&mut self, response: Response) -> Vec<Request> {
        self.heard = true;
        let outcome = self
            .machine
            .lock()
            .receive(response, &mut self.parser, Instant::now());
        for (name, rejected) in &outcome.rejected {
            warn!(resource = %name, error = %rejected, "resource refused; the last good one stays");
        }
        outcome.requests
    }

    /// Makes the snapshot of what serves now and puts it in place.
    fn apply(&mut self) {
        let old = self.shared.snapshot.load_full();
        let new = Arc::new(self.builder.build(&self.machine.lock(), &old));
        self.upkeep.apply(&new);
        self.shared.snapshot.store(new.clone());
        self.listeners.lock().apply(&new);
        drain_removed(&old, &new);
    }

    fn next_look(&self) -> Duration {
        if self.listeners.lock().is_incomplete() {
            return AGAIN;
        }
        let deadline = self.machine.lock().deadline();
        deadline.map_or(Duration::from_secs(60), |deadline| {
            deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(10))
        })
    }

    fn look_again(&mut self) {
        let changed = self.machine.lock().tick(Instant::now());
        if changed || self.listeners.lock().is_incomplete() {
            self.apply();
        }
    }

    /// Waits without a stream; warming and failed ports go on.
    async fn idle(&mut self, wait: Duration) {
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(self.next_look())).await;
            self.look_again();
        }
    }
}

fn told(status: &tonic::Status) -> anyhow::Error {
    anyhow!(
        "the control plane answered {:?}: {}",
        status.code(),
        status.message()
    )
}
