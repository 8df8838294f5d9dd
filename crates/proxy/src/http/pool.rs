//! Connections to one endpoint, one pool per worker: HTTP/1 by turns, HTTP/2 shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::body::RequestBody;
use crate::cluster::{Chosen, Cluster};
use crate::listener::H2;
use crate::upstream::{ConnectError, connect};

/// Idle HTTP/1 connections kept per endpoint and worker; more are closed when they come back.
const IDLE: usize = 256;
/// An upstream's response head may be as large as Envoy lets it be.
const RESPONSE_HEADERS: usize = 100;
const RESPONSE_HEAD: usize = 60 << 10;
/// Read buffers never grow beyond this: back-pressure begins here.
const BUFFER: usize = 64 << 10;
/// A silent HTTP/2 connection is asked for a sign of life, or it would be used for ever.
const PING: std::time::Duration = std::time::Duration::from_secs(30);

/// How long an upstream's first settings may take.
const SETTINGS: std::time::Duration = std::time::Duration::from_secs(1);

/// The pools of an endpoint, one per worker.
#[derive(Debug)]
pub struct Pools(Vec<Arc<Pool>>);

/// A worker's connections to an endpoint.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
    /// An async lock: the first request connects, those behind it share its connection.
    shared: tokio::sync::Mutex<Option<Shared>>,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    used: u64,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    used: Arc<AtomicU64>,
    extended: watch::Receiver<bool>,
}

/// A connection that is lent for one exchange.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    idle: Option<Idle>,
    limit: Option<u64>,
    timeout: std::time::Duration,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection's first words failed.
    #[error("HTTP handshake: {0}")]
    Handshake(#[source] hyper::Error),
    /// The exchange failed.
    #[error("exchange: {0}")]
    Exchange(#[source] hyper::Error),
}

// === impl Pools ===

impl Pools {
    /// Empty pools for this many workers.
    pub fn new(workers: usize) -> Pools {
        Pools((0..workers.max(1)).map(|_| Arc::default()).collect())
    }

    /// The pool of a worker; for endpoints of one connection there is only the first.
    pub fn of(&self, worker: usize) -> Option<&Arc<Pool>> {
        self.0.get(worker).or_else(|| self.0.first())
    }
}

// === impl Pool ===

impl Pool {
    /// Sends over HTTP/1. A request that a stale connection never read is sent again over the next one.
    pub async fn send1(
        self: &Arc<Self>,
        chosen: &Chosen,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Option<Lease>), SendError> {
        loop {
            let (mut idle, fresh) = match self.take(&chosen.cluster) {
                Some(idle) => (idle, false),
                None => (open1(chosen).await?, true),
            };
            if !fresh && idle.sender.ready().await.is_err() {
                continue;
            }
            idle.used = idle.used.saturating_add(1);
            match idle.sender.try_send_request(request).await {
                Ok(response) => {
                    let lease = Lease {
                        pool: self.clone(),
                        idle: Some(idle),
                        limit: chosen.cluster.config.max_requests_per_connection,
                        timeout: chosen.cluster.config.idle_timeout,
                    };
                    return Ok((response, Some(lease)));
                }
                Err(error) => request = unsent(error, fresh)?,
            }
        }
    }

    /// Sends over HTTP/2.
    pub async fn send2(
        &self,
        chosen: &Chosen,
        settings: H2,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Option<Lease>), SendError> {
        loop {
            let (mut shared, fresh) = self.share(chosen, settings).await?;
            if request.extensions().get::<Protocol>().is_some() {
                // Before the upstream's settings allow extended CONNECT (RFC 8441 §3) it must not be sent; only the
                // first request of a connection can come too early.
                let _ = timeout(SETTINGS, shared.extended.wait_for(|allowed| *allowed)).await;
            }
            match shared.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, None)),
                Err(error) => request = unsent(error, fresh)?,
            }
        }
    }

    /// The youngest idle connection that is alive.
    fn take(&self, cluster: &Cluster) -> Option<Idle> {
        let mut idle = self.idle.lock();
        while let Some(candidate) = idle.pop() {
            if !candidate.sender.is_closed()
                && candidate.since.elapsed() < cluster.config.idle_timeout
            {
                return Some(candidate);
            }
        }
        None
    }

    async fn share(&self, chosen: &Chosen, settings: H2) -> Result<(Shared, bool), SendError> {
        let mut shared = self.shared.lock().await;
        if let Some(current) = shared
            .as_ref()
            .filter(|current| !current.sender.is_closed())
        {
            let used = current.used.fetch_add(1, Ordering::Relaxed);
            if chosen
                .cluster
                .config
                .max_requests_per_connection
                .is_none_or(|limit| used < limit)
            {
                return Ok((current.clone(), false));
            }
        }
        let opened = open2(chosen, settings).await?;
        *shared = Some(opened.clone());
        Ok((opened, true))
    }
}

/// The request, if the connection gave it back unread and another is worth a try.
fn unsent(
    mut error: TrySendError<Request<RequestBody>>,
    fresh: bool,
) -> Result<Request<RequestBody>, SendError> {
    match error.take_message() {
        Some(request) if !fresh => Ok(request),
        _ => Err(SendError::Exchange(error.into_error())),
    }
}

async fn open1(chosen: &Chosen) -> Result<Idle, SendError> {
    let (stream, connected) = connect(chosen, false).await?;
    let (sender, connection) = http1::Builder::new()
        .max_headers(RESPONSE_HEADERS)
        .max_header_size(RESPONSE_HEAD)
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(SendError::Handshake)?;
    // Ends when the sender is dropped or the upstream closes.
    tokio::spawn(async move {
        let _connected = connected;
        let _ = connection.with_upgrades().await;
    });
    Ok(Idle {
        sender,
        used: 0,
        since: Instant::now(),
    })
}

async fn open2(chosen: &Chosen, settings: H2) -> Result<Shared, SendError> {
    let (stream, connected) = connect(chosen, true).await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(u32::try_from(RESPONSE_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(SendError::Handshake)?;
    let (tell, extended) = watch::channel(false);
    tokio::spawn(async move {
        let _connected = connected;
        let mut connection = Box::pin(connection);
        let driving = std::future::poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending()
                && !*tell.borrow()
                && connection.is_extended_connect_protocol_enabled()
            {
                tell.send_replace(true);
            }
            polled
        });
        let _ = driving.await;
    });
    Ok(Shared {
        sender,
        used: Arc::new(AtomicU64::new(1)),
        extended,
    })
}

// === impl Lease ===

impl Lease {
    /// Puts the connection back, if it may serve again.
    pub fn give_back(mut self, reusable: bool) {
        let Some(mut idle) = self.idle.take() else {
            return;
        };
        if !reusable
            || idle.sender.is_closed()
            || self.limit.is_some_and(|limit| idle.used >= limit)
        {
            return;
        }
        idle.since = Instant::now();
        let mut list = self.pool.idle.lock();
        // The oldest are at the front: those nobody came back for are let go.
        let timeout = self.timeout;
        let stale = list
            .iter()
            .take_while(|idle| idle.sender.is_closed() || idle.since.elapsed() >= timeout)
            .count();
        list.drain(..stale);
        if list.len() < IDLE {
            list.push(idle);
        }
    }
}
