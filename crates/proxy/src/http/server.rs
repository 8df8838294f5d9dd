//! The server side of a connection: which HTTP it is, its limits, its drain.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{sleep, timeout};

use super::router::handle;
use crate::connection::{Connection, is_http2};
use crate::listener::{Codec, HttpManager, Terminal};
use crate::net::{Replay, Stream};
use crate::tcp::turned;

/// How long a draining connection may take for the requests it has.
const DRAIN: Duration = Duration::from_secs(600);
/// The same once the proxy is told to stop.
const STOP: Duration = Duration::from_secs(15);
/// Read buffers never grow beyond this: back-pressure begins here. hyper's least is 8 KiB.
const BUFFER: usize = 64 << 10;
/// Streams that clients reset before we took them; h2's own guard against rapid resets (CVE-2023-44487).
const RESETS: usize = 20;
/// Streams we reset for clients' errors, against made-you-reset (CVE-2025-8671).
const ERRORS: usize = 256;
/// A silent HTTP/2 client is asked for a sign of life.
const PING: Duration = Duration::from_secs(60);

/// A connection that speaks HTTP.
#[derive(Debug)]
pub struct HttpConnection {
    /// The connection.
    pub connection: Arc<Connection>,
    /// It speaks HTTP/2.
    pub is_http2: bool,
    opened: Instant,
    active: AtomicU64,
    requests: AtomicU64,
    /// Milliseconds from `opened` when the last request ended.
    idle_since: AtomicU64,
    /// Milliseconds from `opened` when a head began to arrive; 0 while none does.
    head_since: AtomicU64,
}

/// Serves one connection to its end.
pub async fn serve(mut stream: Stream, connection: Arc<Connection>) {
    let Terminal::Http(manager) = &connection.chain.terminal else {
        return;
    };
    let sniffed = match manager.codec {
        Codec::Http1 => Ok((false, bytes::Bytes::new())),
        Codec::Http2 => Ok((true, bytes::Bytes::new())),
        Codec::Auto => {
            match timeout(manager.idle_timeout.unwrap_or(DRAIN), is_http2(&mut stream)).await {
                Ok(sniffed) => sniffed,
                Err(_) => return,
            }
        }
    };
    let Ok((is_http2, prefix)) = sniffed else {
        return;
    };
    let http = Arc::new(HttpConnection {
        connection: connection.clone(),
        is_http2,
        opened: Instant::now(),
        active: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        idle_since: AtomicU64::new(0),
        head_since: AtomicU64::new(0),
    });
    let io = TokioIo::new(Watched {
        inner: Replay::with_prefix(prefix, stream),
        http: http.clone(),
    });
    if is_http2 {
        serve2(io, http, manager).await
    } else {
        serve1(io, http, manager).await
    }
}

async fn serve1(io: TokioIo<Watched>, http: Arc<HttpConnection>, manager: &HttpManager) {
    let service = {
        let http = http.clone();
        service_fn(move |request| {
            let http = http.clone();
            async move { Ok::<_, Infallible>(Box::pin(handle(http, request)).await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper's timer runs between requests too; the limit for heads is kept by `overdue`.
        .header_read_timeout(None)
        .half_close(true)
        .max_headers(manager.max_headers)
        .max_header_size(usize::try_from(manager.max_header_bytes).unwrap_or(usize::MAX))
        .max_buf_size(BUFFER.max(usize::try_from(manager.max_header_bytes).unwrap_or(0)))
        .serve_connection(io, service)
        .with_upgrades();
    drive(connection, http1_drain, &http, manager).await;
}

async fn serve2(io: TokioIo<Watched>, http: Arc<HttpConnection>, manager: &HttpManager) {
    let service = {
        let http = http.clone();
        service_fn(move |request| {
            let http = http.clone();
            async move { Ok::<_, Infallible>(Box::pin(handle(http, request)).await) }
        })
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(manager.h2.max_concurrent_streams)
        .initial_stream_window_size(manager.h2.stream_window)
        .initial_connection_window_size(manager.h2.connection_window)
        .max_header_list_size(manager.max_header_bytes)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(ERRORS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING / 2);
    if manager.h2.allow_connect || !manager.upgrades.is_empty() {
        builder.enable_connect_protocol();
    }
    drive(
        builder.serve_connection(io, service),
        http2_drain,
        &http,
        manager,
    )
    .await;
}

type Http1<S> = http1::UpgradeableConnection<TokioIo<Watched>, S>;
type Http2<S> = http2::Connection<TokioIo<Watched>, S, TokioExecutor>;

fn http1_drain<S>(connection: Pin<&mut Http1<S>>)
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = super::body::ReplyBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    connection.graceful_shutdown();
}

fn http2_drain<S>(connection: Pin<&mut Http2<S>>)
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = super::body::ReplyBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, super::body::ReplyBody>,
{
    connection.graceful_shutdown();
}

/// Runs the connection until it ends, must drain, or is overdue.
async fn drive<C, E>(
    connection: C,
    drain: fn(Pin<&mut C>),
    http: &Arc<HttpConnection>,
    manager: &HttpManager,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut connection = std::pin::pin!(connection);
    let mut chain = http.connection.chain.drain.subscribe();
    let mut stop = http.connection.worker.shared.drain.subscribe();
    let grace = tokio::select! {
        ended = connection.as_mut() => return note(ended),
        () = turned(&mut chain) => DRAIN,
        () = turned(&mut stop) => STOP,
        hard = overdue(http, manager) => if hard { return } else { DRAIN },
    };
    drain(connection.as_mut());
    match timeout(grace, connection).await {
        Ok(ended) => note(ended),
        Err(_) => {
            tracing::debug!(source = %http.connection.source, "closed after its time to drain")
        }
    }
}

fn note<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Completes when the connection has been idle too long, has lived or served enough (drain), or a head is overdue
/// (`true`: close at once).
async fn overdue(http: &HttpConnection, manager: &HttpManager) -> bool {
    let pulse = manager.headers_timeout.min(Duration::from_secs(5));
    loop {
        sleep(pulse).await;
        let age = http.opened.elapsed();
        let since = |mark: u64| age.saturating_sub(Duration::from_millis(mark));
        let head = http.head_since.load(Ordering::Relaxed);
        if head > 0 && since(head) > manager.headers_timeout {
            return true;
        }
        let is_idle = http.active.load(Ordering::Relaxed) == 0;
        let idle = since(http.idle_since.load(Ordering::Relaxed));
        if is_idle && manager.idle_timeout.is_some_and(|limit| idle > limit) {
            return false;
        }
        let requests = http.requests.load(Ordering::Relaxed);
        let worn = manager
            .max_requests_per_connection
            .is_some_and(|limit| requests >= limit);
        if worn
            || manager
                .max_connection_duration
                .is_some_and(|limit| age > limit)
        {
            return false;
        }
    }
}

impl HttpConnection {
    /// The chain's connection manager.
    pub fn manager(&self) -> Option<&HttpManager> {
        match &self.connection.chain.terminal {
            Terminal::Http(manager) => Some(manager),
            Terminal::Tcp(_) => None,
        }
    }

    /// A request has arrived.
    pub fn begin(&self) {
        self.head_since.store(0, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has ended.
    pub fn end(&self) {
        self.idle_since.store(self.now(), Ordering::Relaxed);
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// Bytes have come while no HTTP/1 request was under way: a head has begun.
    fn read(&self) {
        if !self.is_http2
            && self.active.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }
}

/// A stream that notes when a request's head begins to arrive.
struct Watched {
    inner: Replay<Stream>,
    http: Arc<HttpConnection>,
}

impl tokio::io::AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.http.read();
        }
        polled
    }
}

impl tokio::io::AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
