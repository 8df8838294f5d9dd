//! The server side of a connection: which HTTP it is, and what all its requests share.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::{h1, h2};
use crate::connection::{Connection, is_http2};
use crate::listener::{Codec, HttpManager, Terminal};
use crate::net::{Replay, Stream};
use crate::overload::Action;
use crate::stats::{Counter, Gauge};

/// How long a client may take for its first bytes where the connection manager sets no idle timeout.
const FIRST_BYTES: Duration = Duration::from_secs(600);

/// A connection that speaks HTTP.
#[derive(Debug)]
pub struct HttpConnection {
    /// The connection.
    pub connection: Arc<Connection>,
    /// It speaks HTTP/2.
    pub is_http2: bool,
    opened: Instant,
    draining: AtomicBool,
    active: AtomicU64,
    requests: AtomicU64,
    /// Milliseconds from `opened` when the last request ended.
    idle_since: AtomicU64,
}

/// The rest of a connection's life.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Learns which HTTP the client speaks. What serves the connection from then on is another future: a connection rests
/// far longer than it begins, and carries only what rests.
pub async fn begin(stream: Stream, connection: Arc<Connection>) -> Option<Serving> {
    let Terminal::Http(manager) = &connection.chain.terminal else {
        return None;
    };
    let (stream, prefix, is_http2) = Box::pin(sniff(stream, manager)).await?;
    let http = Arc::new(HttpConnection {
        connection,
        is_http2,
        opened: Instant::now(),
        draining: AtomicBool::new(false),
        active: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        idle_since: AtomicU64::new(0),
    });
    let (total, active) = http.counters();
    total.increment();
    active.add(1);
    if is_http2 {
        let stream = Replay::with_prefix(prefix.freeze(), stream);
        return Some(Box::pin(h2::serve(stream, http)));
    }
    let server = Box::new(h1::Server::new(stream, prefix, http.manager()?));
    Some(Box::pin(h1::serve(server, http)))
}

/// Learns which HTTP the client speaks, and what was read for that.
async fn sniff(mut stream: Stream, manager: &HttpManager) -> Option<(Stream, BytesMut, bool)> {
    let (is_http2, prefix) = match manager.codec {
        Codec::Http1 => (false, BytesMut::new()),
        Codec::Http2 => (true, BytesMut::new()),
        Codec::Auto => {
            let limit = manager.idle_timeout.unwrap_or(FIRST_BYTES);
            timeout(limit, is_http2(&mut stream)).await.ok()?.ok()?
        }
    };
    Some((stream, prefix, is_http2))
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.counters().1.add(-1);
    }
}

impl HttpConnection {
    /// Connections of this HTTP: all, and those that are open.
    fn counters(&self) -> (&Counter, &Gauge) {
        let stats = self.connection.http_stats();
        match self.is_http2 {
            true => (&stats.http2_connections, &stats.http2_connections_active),
            false => (&stats.http1_connections, &stats.http1_connections_active),
        }
    }

    /// The chain's connection manager.
    pub fn manager(&self) -> Option<&HttpManager> {
        match &self.connection.chain.terminal {
            Terminal::Http(manager) => Some(manager),
            Terminal::Tcp(_) => None,
        }
    }

    /// A request has arrived.
    pub fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has ended.
    pub fn finish(&self) {
        if self.is_http2 {
            self.idle_since.store(self.age(), Ordering::Relaxed);
        }
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// The connection is to take no more requests.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to take no more requests.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed) || self.connection.worker.shared.is_draining()
    }

    /// When its life ends, requests or not.
    pub fn end(&self, manager: &HttpManager) -> Option<Instant> {
        manager
            .max_connection_duration
            .map(|limit| self.opened + limit)
    }

    /// Whether the request that has arrived is its last.
    pub fn is_worn(&self, manager: &HttpManager) -> bool {
        let served = self.requests.load(Ordering::Relaxed).saturating_add(1);
        let overload = &self.connection.worker.shared.overload;
        self.is_draining()
            || overload.is(Action::DisableKeepAlive)
            || manager
                .max_requests_per_connection
                .is_some_and(|limit| served >= limit)
            || self.end(manager).is_some_and(|end| end <= Instant::now())
    }

    /// Whether it has been without a request for too long, or has lived long enough.
    pub fn is_over(&self, manager: &HttpManager) -> bool {
        let idle = Duration::from_millis(
            self.age()
                .saturating_sub(self.idle_since.load(Ordering::Relaxed)),
        );
        let is_idle = self.active.load(Ordering::Relaxed) == 0;
        (is_idle && manager.idle_timeout.is_some_and(|limit| idle >= limit))
            || self.end(manager).is_some_and(|end| end <= Instant::now())
    }

    /// Milliseconds since it was opened.
    fn age(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
