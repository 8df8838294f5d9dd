//! The proxies' connections: each its own TCP, TLS with its own certificate, HTTP/2 and stream, all in one thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use ca::{Authority, Identity, ServerVerifier, TrustStore};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsConnector;

use crate::plan::{self, PODS, Plan};
use crate::proxy::{Goal, Knowledge, Proxy};
use crate::wire::{self, Part, Reader};

/// The server's name in its certificate.
const HOST: &str = "osm-controller.osm-system.svc";
const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Longer than any run.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// Windows as those of osm-proxy's client.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// Connections that are being made at a time.
const CONNECTING: usize = 64;

/// All proxies.
pub struct Crowd {
    board: Mutex<Board>,
    changed: Notify,
    connecting: Semaphore,
}

struct Board {
    knowledge: Knowledge,
    goal: Goal,
    /// Counts goals.
    round: u64,
    started: Instant,
    reached: usize,
    expected: usize,
    last: Instant,
    /// Payload of each proxy since the goal was set.
    bytes: Vec<u64>,
    /// Proxies whose stream ended, and why.
    lost: Vec<String>,
}

/// What a proxy knows of the present goal.
#[derive(Debug, Default)]
struct Progress {
    round: Option<u64>,
    done: bool,
}

/// How a goal was reached.
#[derive(Debug, Clone)]
pub struct Reached {
    /// From the change to the last proxy that was waited for.
    pub after: Duration,
    /// Payload of each proxy.
    pub bytes: Vec<u64>,
}

// === impl Crowd ===

impl Crowd {
    /// Starts to connect all proxies.
    pub fn connect(
        plan: Plan,
        address: SocketAddr,
        authority: &Arc<Authority>,
    ) -> anyhow::Result<Arc<Crowd>> {
        let now = Instant::now();
        let crowd = Arc::new(Crowd {
            board: Mutex::new(Board {
                knowledge: Knowledge::default(),
                goal: Goal::Complete,
                round: 0,
                started: now,
                reached: 0,
                expected: plan.pods(),
                last: now,
                bytes: vec![0; plan.pods()],
                lost: Vec::new(),
            }),
            changed: Notify::new(),
            connecting: Semaphore::new(CONNECTING),
        });
        let trust = TrustStore::from_pem(authority.certificate_pem())?;
        let verifier = ServerVerifier::dns(trust, HOST)?;
        for index in 0..plan.pods() {
            let (crowd, authority, verifier) = (crowd.clone(), authority.clone(), verifier.clone());
            // Ends with the connection, at the latest with the program.
            tokio::spawn(async move {
                let lived = crowd.live(index, address, &authority, verifier).await;
                let why = lived.map_or_else(|error| format!("{error:#}"), |()| "ended".to_owned());
                crowd
                    .board
                    .lock()
                    .lost
                    .push(format!("proxy {index}: {why}"));
                crowd.changed.notify_one();
            });
        }
        Ok(crowd)
    }

    /// Sets a goal that so many proxies will reach; the clock starts.
    pub fn set(&self, goal: Goal, expected: usize) {
        let mut board = self.board.lock();
        board.goal = goal;
        board.round += 1;
        board.started = Instant::now();
        board.last = board.started;
        board.reached = 0;
        board.expected = expected;
        board.bytes.iter_mut().for_each(|bytes| *bytes = 0);
    }

    /// Waits until the goal is reached.
    pub async fn reached(&self, deadline: Duration) -> anyhow::Result<Reached> {
        let wait = async {
            loop {
                {
                    let board = self.board.lock();
                    if let Some(why) = board.lost.first() {
                        anyhow::bail!("{} proxies lost their stream: {why}", board.lost.len());
                    }
                    if board.reached >= board.expected {
                        return Ok(());
                    }
                }
                self.changed.notified().await;
            }
        };
        let waited = tokio::time::timeout(deadline, wait).await;
        let board = self.board.lock();
        waited.with_context(|| {
            format!(
                "{:?}: {} of {} proxies after {deadline:?}",
                board.goal, board.reached, board.expected
            )
        })??;
        Ok(Reached {
            after: board.last - board.started,
            bytes: board.bytes.clone(),
        })
    }

    /// Payload since the goal was set, per proxy.
    pub fn bytes(&self) -> Vec<u64> {
        self.board.lock().bytes.clone()
    }

    async fn live(
        &self,
        index: usize,
        address: SocketAddr,
        authority: &Authority,
        verifier: Arc<ServerVerifier>,
    ) -> anyhow::Result<()> {
        let slot = self.connecting.acquire().await?;
        let (service, pod) = (index / PODS, index % PODS);
        let identity = Identity::new(
            plan::TRUST_DOMAIN,
            &plan::name(service),
            &plan::namespace(service),
        )?;
        let config = client_config(authority, &identity, verifier)?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(HOST)?, tcp)
            .await
            .context("TLS")?;
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake::<_, Bytes>(tls)
            .await
            .context("HTTP/2")?;
        tokio::spawn(connection);
        let request = http::Request::post(format!("https://{HOST}{PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut requests) = client.send_request(request, false)?;
        let mut proxy = Proxy::default();
        let node = format!(
            "{}.sidecar.{}",
            plan::uuid(service, pod),
            identity.dns_name()
        );
        for request in proxy.greet(node) {
            requests.send_data(wire::frame(&request), false)?;
        }
        let response = response.await.context("stream")?;
        let status = response.headers().get("grpc-status");
        anyhow::ensure!(
            response.status() == 200 && status.is_none(),
            "the stream was refused: {} {:?}",
            response.status(),
            response.headers().get("grpc-message")
        );
        drop(slot);
        let mut body = response.into_body();
        let (mut reader, mut progress) = (Reader::default(), Progress::default());
        while let Some(data) = body.data().await {
            let data = data.context("stream")?;
            body.flow_control().release_capacity(data.len())?;
            reader.feed(&data);
            let answers = self.read(index, data.len(), &mut reader, &mut proxy, &mut progress)?;
            for answer in answers {
                requests.send_data(wire::frame(&answer), false)?;
            }
        }
        let trailers = body.trailers().await?;
        anyhow::bail!("the stream ended: {trailers:?}")
    }

    fn read(
        &self,
        index: usize,
        length: usize,
        reader: &mut Reader,
        proxy: &mut Proxy,
        progress: &mut Progress,
    ) -> anyhow::Result<Vec<DeltaDiscoveryRequest>> {
        let mut board = self.board.lock();
        let board = &mut *board;
        if progress.round != Some(board.round) {
            *progress = Progress {
                round: Some(board.round),
                done: false,
            };
            proxy.start();
        }
        if let Some(bytes) = board.bytes.get_mut(index) {
            *bytes += length as u64;
        }
        let (mut answers, mut whole) = (Vec::new(), false);
        while let Some(part) = reader.next().map_err(|e| anyhow::anyhow!("{}", e.0))? {
            match part {
                Part::Field(tag, value) => {
                    proxy.field(&mut board.knowledge, &board.goal, tag, &value);
                }
                Part::End => {
                    whole = true;
                    answers.extend(proxy.end(&mut board.knowledge));
                }
            }
        }
        if whole && !progress.done && proxy.has(&board.goal) {
            progress.done = true;
            board.reached += 1;
            board.last = Instant::now();
            if board.reached == board.expected {
                self.changed.notify_one();
            }
        }
        Ok(answers)
    }
}

fn client_config(
    authority: &Authority,
    identity: &Identity,
    verifier: Arc<ServerVerifier>,
) -> anyhow::Result<rustls::ClientConfig> {
    let leaf = authority.issue_workload(identity, VALIDITY, SystemTime::now())?;
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(leaf.chain, leaf.key.to_rustls())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
