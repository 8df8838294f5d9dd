//! A client's HTTP/2 connection: one task drives it, one task serves each stream.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h1::Length;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::response::Parts;
use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::alive::KeepAlive;
use super::stream::{Sink, Source, broken, length};
use crate::http::body::{Broken, Next};
use crate::http::downstream::Downstream;
use crate::http::drain::Drain;
use crate::http::router::{Ended, handle, refuse};
use crate::http::server::HttpConnection;
use crate::http::timer::Timer;
use crate::http::tunnel::Tunnel;
use crate::listener::HttpManager;
use crate::net::{Replay, Stream};
use crate::reason::Reason::HeadersTooLarge as TooLarge;

/// Streams that clients reset before we took them; h2's own guard against rapid resets (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Streams we reset for clients' errors, against made-you-reset (CVE-2025-8671).
const LOCAL_ERRORS: usize = 256;
/// Streams that were reset and are still remembered.
const REMEMBERED: usize = 50;
/// Premature ends within [`RESET_WINDOW`] after which a client must go, if they are most of what it asked for.
const PREMATURE: u32 = 100;
const RESET_WINDOW: Duration = Duration::from_secs(30);
/// Of a stream, buffered for sending: what a client with a stalled window can make us hold.
const SEND_BUFFER: usize = 64 << 10;
/// A silent client is asked for a sign of life …
const PING: Duration = Duration::from_secs(60);
/// … and has so long to give it.
const PONG: Duration = Duration::from_secs(30);
/// How long the first settings may take.
const PREFACE: Duration = Duration::from_secs(10);

/// A stream of a client's connection.
pub struct ServerStream {
    source: Source,
    respond: SendResponse<Bytes>,
    sink: Option<Sink>,
    length: Length,
    timer: Timer,
}

/// How a connection's streams have ended.
#[derive(Debug, Default)]
struct Resets {
    premature: AtomicU32,
    all: AtomicU32,
}

/// Everything that drives a connection.
struct Driver<'a> {
    connection: Connection<Replay<Stream>, Bytes>,
    http: Arc<HttpConnection>,
    manager: &'a HttpManager,
    drain: Drain,
    is_draining: bool,
    pings: Option<KeepAlive>,
    resets: Arc<Resets>,
    window_end: Instant,
    /// Wakes for idleness and age.
    pulse: Pin<Box<Sleep>>,
}

/// Serves a connection of which `prefix` has been read already.
pub async fn serve(stream: Replay<Stream>, http: Arc<HttpConnection>) {
    let Some(manager) = http.manager() else {
        return;
    };
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(manager.h2.max_concurrent_streams)
        .initial_window_size(manager.h2.stream_window)
        .initial_connection_window_size(manager.h2.connection_window)
        .max_header_list_size(manager.max_header_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_ERRORS));
    if manager.h2.allow_connect {
        builder.enable_connect_protocol();
    }
    let mut connection = match timeout(PREFACE, builder.handshake::<_, Bytes>(stream)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(source = %http.connection.source, %error, "no HTTP/2 connection");
            return;
        }
        Err(_) => return,
    };
    let pings = connection
        .ping_pong()
        .map(|pings| KeepAlive::new(pings, PING, PONG));
    let mut driver = Driver {
        connection,
        drain: Drain::new(&http.connection),
        is_draining: false,
        pings,
        resets: Arc::default(),
        window_end: Instant::now() + RESET_WINDOW,
        pulse: Box::pin(sleep(pulse(manager))),
        http: http.clone(),
        manager,
    };
    poll_fn(|cx| driver.poll(cx)).await;
}

/// How often idleness is looked for.
fn pulse(manager: &HttpManager) -> Duration {
    let shortest = [manager.idle_timeout, manager.max_connection_duration]
        .into_iter()
        .flatten()
        .min();
    shortest.map_or(Duration::from_secs(60), |shortest| {
        (shortest / 4).clamp(Duration::from_millis(50), Duration::from_secs(60))
    })
}

impl Driver<'_> {
    /// Ready once the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(error))) => {
                    let source = self.http.connection.source;
                    tracing::debug!(%source, %error, "HTTP/2 connection ended");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        // Told softly (clients are to leave): when there is something to write anyway.
        let told = self.drain.poll(cx, &self.http).is_ready() || self.http.is_draining();
        if !self.is_draining && told {
            self.go_away(cx);
        }
        if self.is_draining && self.drain.poll_over(cx, &self.http).is_ready() {
            return Poll::Ready(());
        }
        if let Some(pings) = &mut self.pings
            && pings.poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        while self.pulse.as_mut().poll(cx).is_ready() {
            self.pulse
                .as_mut()
                .reset(Instant::now() + pulse(self.manager));
            if !self.is_draining && self.http.is_over(self.manager) {
                self.go_away(cx);
            }
        }
        Poll::Pending
    }

    /// Takes a stream in.
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        if self.is_flood() {
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            return;
        }
        let is_too_large = request.headers().len() > self.manager.max_headers;
        self.resets.all.fetch_add(1, Ordering::Relaxed);
        let (parts, stream) = request.into_parts();
        let mut stream = ServerStream {
            length: length(&parts.headers, stream.is_end_stream()),
            source: Source::new(stream),
            respond,
            sink: None,
            timer: Timer::default(),
        };
        let http = self.http.clone();
        let resets = self.resets.clone();
        // Ends with its stream: a reset is seen as soon as it reads or writes, its timeouts end it else.
        tokio::spawn(async move {
            let client = &mut Downstream::Http2(&mut stream);
            let ended = match is_too_large {
                true => refuse(&http, client, TooLarge).await,
                false => handle(&http, parts, client).await,
            };
            if matches!(ended, Ended::Broken) {
                resets.premature.fetch_add(1, Ordering::Relaxed);
            }
        });
        if self.http.is_worn(self.manager) && !self.is_draining {
            self.is_draining = true;
            self.connection.graceful_shutdown();
        }
    }

    /// Whether most of what the client asks for ends before its time, and much does: CVE-2023-44487, CVE-2025-8671.
    fn is_flood(&mut self) -> bool {
        let now = Instant::now();
        let premature = self.resets.premature.load(Ordering::Relaxed);
        let all = self.resets.all.load(Ordering::Relaxed);
        if now >= self.window_end {
            self.resets.premature.store(0, Ordering::Relaxed);
            self.resets.all.store(0, Ordering::Relaxed);
            self.window_end = now + RESET_WINDOW;
        }
        premature > PREMATURE && premature > all / 2
    }

    fn go_away(&mut self, cx: &mut Context<'_>) {
        self.is_draining = true;
        self.connection.graceful_shutdown();
        cx.waker().wake_by_ref(); // What was queued is written by the next poll.
    }
}

// === impl ServerStream ===

impl ServerStream {
    /// How the request's body is framed.
    pub fn length(&self) -> Length {
        self.length
    }

    /// The next piece of the request's body.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        self.source.poll_piece(cx)
    }

    /// Whether all of the request's body was handed out.
    pub fn is_read(&self) -> bool {
        self.source.is_done()
    }

    /// Sends the response's head.
    pub fn begin(&mut self, mut head: Parts, length: Length) -> Result<(), Broken> {
        head.headers.remove(CONNECTION);
        if let Length::Exact(length) = length {
            head.headers.insert(CONTENT_LENGTH, length.into());
        }
        let response = Response::from_parts(head, ());
        let is_over = length == Length::Empty;
        let sent = self.respond.send_response(response, is_over);
        let stream = sent.map_err(|error| broken(&error))?;
        self.sink = Some(Sink::new(stream, is_over));
        Ok(())
    }

    /// Ready once nothing waits for the client's window.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.sink {
            Some(sink) => sink.poll_ready(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Queues a piece of the body.
    pub fn push(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        match &mut self.sink {
            Some(sink) => sink.push(data, is_last),
            None => Err(Broken::Ended),
        }
    }

    /// Queues the body's end.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match &mut self.sink {
            Some(sink) => sink.finish(trailers),
            None => Err(Broken::Ended),
        }
    }

    /// Ready once the client has given the stream up.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sink {
            Some(sink) => sink.poll_reset(cx),
            None => self.respond.poll_reset(cx).map(drop),
        }
    }

    /// The timer for the exchange's limits.
    pub fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    /// The response cannot be finished.
    pub fn abort(&mut self) {
        match &mut self.sink {
            Some(sink) => sink.reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Both directions, after a switch of protocols.
    pub fn tunnel(&mut self) -> Option<Tunnel<'_>> {
        Some(Tunnel::Stream {
            source: &mut self.source,
            sink: self.sink.as_mut()?,
            piece: Bytes::new(),
        })
    }
}
