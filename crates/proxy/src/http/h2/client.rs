//! HTTP/2 connections to an upstream, shared by requests; each request is a stream.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h1::Length;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::response::Parts;
use http::{HeaderMap, Method, Request};
use parking_lot::Mutex;

use super::alive::KeepAlive;
use super::stream::{Sink, Source, broken, response_length};
use crate::http::body::{Broken, Next};
use crate::http::pool::{Counted, Open};
use crate::http::tunnel::Tunnel;
use crate::listener::H2;
use crate::net::Stream;
use crate::upstream::Connected;

/// An upstream's response head may be as large as Envoy lets it be.
const RESPONSE_HEAD: u32 = 60 << 10;
/// As many fields as a request's head may have by default.
const FIELDS: usize = 100;
/// Of a stream, buffered for sending.
const SEND_BUFFER: usize = 64 << 10;
/// A silent connection is asked for a sign of life, or it would be used for ever.
const PING: Duration = Duration::from_secs(30);
/// Streams before the upstream has told its limit.
const STREAMS: usize = 100;

/// A connection that takes requests.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Streams in use.
    active: AtomicUsize,
    /// Streams ever opened.
    used: AtomicUsize,
    /// It takes no more.
    closed: AtomicBool,
    /// When the last stream ended.
    since: Mutex<Instant>,
    opened: Instant,
    /// Where somebody may wait for a place.
    pool: Arc<Open>,
}

/// A stream's place on its connection, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<State>);

/// A request and its response.
#[derive(Debug)]
pub struct ClientStream {
    response: Option<ResponseFuture>,
    method: Method,
    source: Option<Source>,
    sink: Sink,
    _place: Place,
}

/// Begins HTTP/2 on a connection that was just opened.
pub async fn open(
    stream: Stream,
    held: (Connected, Counted),
    settings: H2,
) -> Result<Connection, h2::Error> {
    let (sender, mut connection) = Builder::new()
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(RESPONSE_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(STREAMS)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await?;
    let state = Arc::new(State {
        active: AtomicUsize::new(0),
        used: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        since: Mutex::new(Instant::now()),
        opened: Instant::now(),
        pool: held.1.0.clone(),
    });
    let of_task = state.clone();
    let mut pings = connection
        .ping_pong()
        .map(|pings| KeepAlive::new(pings, PING, PING));
    // Ends with the connection, which ends when its pool has let go of it and its last stream is over.
    tokio::spawn(async move {
        let _held = held;
        poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "upstream HTTP/2 connection ended");
                }
                return Poll::Ready(());
            }
            pings.as_mut().map_or(Poll::Pending, |pings| pings.poll(cx))
        })
        .await;
        of_task.closed.store(true, Ordering::Relaxed);
    });
    Ok(Connection { sender, state })
}

// === impl Connection ===

impl Connection {
    /// Whether it takes another stream.
    pub fn has_room(&self, settings: H2, limit: Option<u64>) -> bool {
        let most = usize::try_from(settings.max_concurrent_streams).unwrap_or(usize::MAX);
        let streams = self.sender.current_max_send_streams().min(most);
        !self.is_worn(limit) && self.state.active.load(Ordering::Relaxed) < streams
    }

    /// Whether it takes no stream any more.
    pub fn is_worn(&self, limit: Option<u64>) -> bool {
        let used = u64::try_from(self.state.used.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        self.state.closed.load(Ordering::Relaxed) || limit.is_some_and(|limit| used >= limit)
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.state.opened
    }

    /// Whether it has had no stream for so long.
    pub fn is_idle(&self, timeout: Duration) -> bool {
        self.state.active.load(Ordering::Relaxed) == 0
            && self.state.since.lock().elapsed() >= timeout
    }

    /// It refused a stream before it was sent: nobody may try again.
    pub fn close(&self) {
        self.state.closed.store(true, Ordering::Relaxed);
    }

    /// Takes a place for a stream.
    pub fn enter(&self) -> Connection {
        self.state.used.fetch_add(1, Ordering::Relaxed);
        self.state.active.fetch_add(1, Ordering::Relaxed);
        Connection {
            sender: self.sender.clone(),
            state: self.state.clone(),
        }
    }

    /// Opens the stream of a place that [`Self::enter`] took.
    pub async fn send(
        mut self,
        request: Request<()>,
        is_end: bool,
    ) -> Result<ClientStream, Broken> {
        let place = Place(self.state.clone());
        let method = request.method().clone();
        let ready = poll_fn(|cx| self.sender.poll_ready(cx)).await;
        let sent = ready.and_then(|()| self.sender.send_request(request, is_end));
        match sent {
            Ok((response, stream)) => Ok(ClientStream {
                response: Some(response),
                method,
                source: None,
                sink: Sink::opening(stream, is_end),
                _place: place,
            }),
            Err(error) => {
                tracing::debug!(%error, "HTTP/2 connection takes no stream");
                self.close();
                Err(Broken::Refused)
            }
        }
    }

    /// Ready once the upstream's settings have said that they allow extended CONNECT (RFC 8441 §3).
    pub fn allows_connect(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.since.lock() = Instant::now();
        }
        self.0.pool.freed.notify_one();
    }
}

// === impl ClientStream ===

impl ClientStream {
    /// Ready once another piece may be queued.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.sink.poll_ready(cx)
    }

    /// Queues a piece of the body.
    pub fn push(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        self.sink.push(data, is_last)
    }

    /// Queues the body's end.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        self.sink.finish(trailers)
    }

    /// Whether the request's end was queued.
    pub fn is_finished(&self) -> bool {
        self.sink.is_over()
    }

    /// The response's head.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Parts, Length), Broken>> {
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(Broken::Ended));
        };
        let answered = ready!(Pin::new(response).poll(cx));
        self.response = None;
        let (parts, stream) = match answered {
            Ok(response) => response.into_parts(),
            Err(error) => return Poll::Ready(Err(broken(&error))),
        };
        if parts.headers.len() > FIELDS {
            return Poll::Ready(Err(Broken::Protocol("too many headers")));
        }
        let is_end = stream.is_end_stream();
        let length = response_length(&parts.headers, is_end, &self.method, parts.status);
        self.source = Some(Source::new(stream));
        Poll::Ready(Ok((parts, length)))
    }

    /// The next piece of the response's body.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match &mut self.source {
            Some(source) => source.poll_piece(cx),
            None => Poll::Ready(None),
        }
    }

    /// Whether all of the response's body was handed out.
    pub fn is_read(&self) -> bool {
        self.source.as_ref().is_some_and(Source::is_done)
    }

    /// Both directions, after a switch of protocols.
    pub fn tunnel(&mut self) -> Option<Tunnel<'_>> {
        Some(Tunnel::Stream {
            source: self.source.as_mut()?,
            sink: &mut self.sink,
            piece: Bytes::new(),
        })
    }
}
