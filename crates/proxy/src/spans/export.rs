//! The way of finished spans to a collector: a bounded queue, batches, requests through one of the proxy's clusters.
//!
//! Who finishes a span never waits: a span that finds the queue full is counted and dropped. One task per collector
//! sends; it ends when the last configuration that names the collector is gone.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::otlp::{self, Origin};
use super::span::Span;
use super::zipkin::{self, Endpoint};
use crate::http::call::{Call, CallError, GrpcService, send};
use crate::stats::{Family, Scope, Stats};
use crate::worker::Worker;

/// So many spans are sent at once …
const BATCH: usize = 64;
/// … or those that have waited so long. Envoy waits 5 s; a person who looks for a trace does not like to.
const WAIT: Duration = Duration::from_secs(1);
/// Spans that wait for a collector where configuration does not say: Envoy's number.
pub const QUEUE: usize = 1024;
/// How long a collector may take where configuration does not say: Envoy's time.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Counters of a tracer, by place.
const NAMES: &[&str] = &[
    "spans_sent",
    "spans_dropped",
    "timer_flushed",
    "reports_sent",
    "reports_dropped",
    "reports_failed",
    "reports_skipped_no_cluster",
];
const SPANS_SENT: usize = 0;
const SPANS_DROPPED: usize = 1;
const TIMER_FLUSHED: usize = 2;
const REPORTS_SENT: usize = 3;
const REPORTS_DROPPED: usize = 4;
const REPORTS_FAILED: usize = 5;
const REPORTS_SKIPPED: usize = 6;

/// Where spans go, and in which form.
#[derive(Debug)]
pub struct Collector {
    /// What configuration says of it, in bytes: equal ones are the same collector.
    pub key: Box<[u8]>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Spans that may wait for it.
    pub queue: usize,
}

/// How a collector is spoken to.
#[derive(Debug)]
pub enum Protocol {
    /// Zipkin's JSON over HTTP.
    Zipkin(HttpCollector),
    /// OTLP in protobuf over HTTP.
    OtlpHttp(HttpCollector, Origin),
    /// OTLP over gRPC.
    OtlpGrpc(GrpcService, Origin),
}

/// A collector that takes HTTP requests.
#[derive(Debug)]
pub struct HttpCollector {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// The authority.
    pub authority: String,
    /// The path.
    pub path: String,
    /// Headers of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For a report.
    pub timeout: Duration,
}

/// A collector's queue, with a task that empties it.
#[derive(Debug)]
pub struct Exporter(Arc<Pipe>);

#[derive(Debug)]
struct Pipe {
    collector: Arc<Collector>,
    waiting: Mutex<Vec<Span>>,
    /// Taken from the queue, and not sent yet.
    under_way: AtomicUsize,
    news: Notify,
    closed: AtomicBool,
    hurried: AtomicBool,
    stats: Arc<Scope>,
}

/// The collectors in use.
#[derive(Debug, Default)]
pub struct Exporters(Mutex<Vec<Known>>);

/// A collector by its key, and its exporter while somebody needs it.
type Known = (Box<[u8]>, Weak<Exporter>);

// === impl Exporters ===

impl Exporters {
    /// The exporter to a collector; its task runs on the worker that asks first.
    pub fn of(&self, collector: &Arc<Collector>, worker: &Worker) -> Arc<Exporter> {
        let mut known = self.0.lock();
        known.retain(|(_, exporter)| exporter.strong_count() > 0);
        let mut same = known.iter().filter(|(key, _)| *key == collector.key);
        if let Some(exporter) = same.find_map(|(_, exporter)| exporter.upgrade()) {
            return exporter;
        }
        let exporter = Arc::new(Exporter::start(collector.clone(), worker.clone()));
        known.push((collector.key.clone(), Arc::downgrade(&exporter)));
        exporter
    }

    /// Sends what waits, for so long at most.
    pub async fn flush(&self, limit: Duration) {
        let known = self
            .0
            .lock()
            .iter()
            .filter_map(|(_, e)| e.upgrade())
            .collect::<Vec<_>>();
        for exporter in &known {
            exporter.0.hurried.store(true, Ordering::Relaxed);
            exporter.0.news.notify_one();
        }
        let end = Instant::now() + limit;
        while known.iter().any(|exporter| !exporter.0.is_empty()) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

// === impl Exporter ===

impl Exporter {
    fn start(collector: Arc<Collector>, worker: Worker) -> Exporter {
        let stats = scope(&worker.shared.stats, &collector.protocol);
        let pipe = Arc::new(Pipe {
            collector,
            waiting: Mutex::default(),
            under_way: AtomicUsize::new(0),
            news: Notify::new(),
            closed: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            stats,
        });
        // Ends with its exporter, which the configuration owns: see `Drop`.
        tokio::spawn(run(pipe.clone(), worker));
        Exporter(pipe)
    }

    /// Hands a span over.
    pub fn push(&self, span: Span) {
        let pipe = &self.0;
        let mut waiting = pipe.waiting.lock();
        if waiting.len() >= pipe.collector.queue {
            drop(waiting);
            pipe.stats.counter(SPANS_DROPPED).increment();
            return;
        }
        waiting.push(span);
        let count = waiting.len();
        drop(waiting);
        if count == 1 || count == BATCH {
            pipe.news.notify_one();
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.news.notify_one();
    }
}

fn scope(stats: &Stats, protocol: &Protocol) -> Arc<Scope> {
    let name = match protocol {
        Protocol::Zipkin(_) => "zipkin",
        Protocol::OtlpHttp(..) | Protocol::OtlpGrpc(..) => "opentelemetry",
    };
    let family = Family::new(format!("tracing.{name}."), format!("envoy_tracing_{name}_"));
    stats.scope(family, NAMES)
}

/// Sends until the exporter is gone and nothing waits.
async fn run(pipe: Arc<Pipe>, worker: Worker) {
    let address = own_address();
    loop {
        if pipe.is_idle() {
            if pipe.is_closed() {
                return;
            }
            pipe.news.notified().await;
        }
        let mut is_late = false;
        while !pipe.is_due() && !is_late && !pipe.is_idle() {
            is_late = timeout(WAIT, pipe.news.notified()).await.is_err();
        }
        let batch = pipe.take();
        if batch.is_empty() {
            continue;
        }
        if is_late {
            pipe.stats.counter(TIMER_FLUSHED).increment();
        }
        let sent = pipe.report(&batch, &worker, address).await;
        pipe.count(batch.len(), sent);
        pipe.under_way.store(0, Ordering::Relaxed);
    }
}

impl Pipe {
    fn is_idle(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn is_due(&self) -> bool {
        let hurries = self.hurried.load(Ordering::Relaxed) || self.is_closed();
        hurries || self.waiting.lock().len() >= BATCH
    }

    fn is_empty(&self) -> bool {
        self.is_idle() && self.under_way.load(Ordering::Relaxed) == 0
    }

    fn take(&self) -> Vec<Span> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(BATCH);
        self.under_way.store(count, Ordering::Relaxed);
        waiting.drain(..count).collect()
    }

    async fn report(
        &self,
        spans: &[Span],
        worker: &Worker,
        address: Option<IpAddr>,
    ) -> Result<(), CallError> {
        let shared = &worker.shared;
        match &self.collector.protocol {
            Protocol::Zipkin(to) => {
                let endpoint = Endpoint::new(shared.service_cluster(), address);
                let body = zipkin::json(spans, &endpoint);
                post(to, worker, "application/json", body).await
            }
            Protocol::OtlpHttp(to, origin) => {
                let body = otlp::request(spans, origin).encode_to_vec();
                post(to, worker, "application/x-protobuf", body).await
            }
            Protocol::OtlpGrpc(service, origin) => {
                let request = otlp::request(spans, origin);
                let metadata = service.metadata(&Nobody);
                let answer = service
                    .call(worker, otlp::EXPORT, metadata, &request)
                    .await?;
                let answer: otlp::ExportResponse = answer;
                if let Some(partial) = answer.partial_success {
                    let (spans, why) = (partial.rejected_spans, partial.error_message);
                    tracing::debug!(spans, why, "a collector refused spans");
                }
                Ok(())
            }
        }
    }

    fn count(&self, spans: usize, sent: Result<(), CallError>) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        let (of_spans, of_reports) = match &sent {
            Ok(()) => (SPANS_SENT, REPORTS_SENT),
            Err(CallError::NoCluster(_)) => (SPANS_DROPPED, REPORTS_SKIPPED),
            Err(CallError::Http(_) | CallError::Grpc(..)) => (SPANS_DROPPED, REPORTS_DROPPED),
            Err(_) => (SPANS_DROPPED, REPORTS_FAILED),
        };
        self.stats.counter(of_spans).add(spans);
        self.stats.counter(of_reports).increment();
        if let Err(error) = sent {
            tracing::debug!(%error, spans, "spans were not taken");
        }
    }
}

/// The facts of no request at all.
struct Nobody;

impl crate::format::Facts for Nobody {}

async fn post(
    to: &HttpCollector,
    worker: &Worker,
    content_type: &'static str,
    body: Vec<u8>,
) -> Result<(), CallError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(USER_AGENT, HeaderValue::from_static("osm-proxy"));
    for (name, value) in &to.headers {
        headers.append(name.clone(), value.clone());
    }
    let call = Call {
        method: Method::POST,
        path: to.path.clone(),
        authority: to.authority.clone(),
        headers,
        body: Bytes::from(body),
        is_grpc: false,
        timeout: Some(to.timeout),
    };
    let reply = Box::pin(send(worker, &to.cluster, call)).await?;
    match reply.status.is_success() {
        true => Ok(()),
        false => Err(CallError::Http(reply.status)),
    }
}

/// The address by which others know this host; none if it has no network. Connecting a datagram socket sends nothing.
fn own_address() -> Option<IpAddr> {
    let of = |any: &str, there: &str| {
        let socket = std::net::UdpSocket::bind(any).ok()?;
        socket.connect(there).ok()?;
        let own = socket.local_addr().ok()?.ip();
        (!own.is_unspecified() && !own.is_loopback()).then_some(own)
    };
    // Addresses for documentation: RFC 5737, RFC 3849.
    of("0.0.0.0:0", "192.0.2.1:9").or_else(|| of("[::]:0", "[2001:db8::1]:9"))
}
