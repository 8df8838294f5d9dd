//! A client's HTTP/1 connection: one task, one request at a time, no buffers while it rests.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h1::{Decoded, Decoder, HeadError, Length, Limits, Scanner, parse_request, skip_empty_lines};
use http::header::{CONNECTION, HeaderValue, TE};
use http::response::Parts;
use http::{HeaderMap, Method, StatusCode, Version};
use tokio::time::Instant;

use super::Coding;
use crate::http::body::{Broken, Next, Piece};
use crate::http::downstream::Downstream;
use crate::http::drain::Drain;
use crate::http::router::{Ended, handle, refuse};
use crate::http::server::HttpConnection;
use crate::http::timer::Timer;
use crate::http::wire::Wire;
use crate::listener::HttpManager;
use crate::net::Stream;
use crate::reason::Reason;

/// What is read of an unwanted body so that the connection may go on.
const DRAINED: u64 = 64 << 10;
/// How long that, and the last words of a closing connection, may take: Envoy's delayed close.
const LINGER: Duration = Duration::from_secs(1);
/// So much of what a client sends before its answer is read; more would be kept for nobody.
const PIPELINED: usize = 16 << 10;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection.
#[derive(Debug)]
pub struct Server {
    wire: Wire,
    timer: Timer,
    limits: Limits,
    scanner: Scanner,
    /// Empty lines in front of the request.
    skipped: usize,
    /// When the first byte of a head was there.
    head_since: Option<Instant>,
    idle_since: Instant,
    // The request:
    decoder: Decoder,
    length: Length,
    owes_continue: bool,
    version: Version,
    is_head: bool,
    accepts_trailers: bool,
    /// The connection may go on after the exchange.
    keep_alive: bool,
    // The response:
    coding: Coding,
}

/// What comes next on a connection.
enum Arrival {
    Request(Box<h1::Request>),
    Refused(Reason),
    End,
}

/// Serves a connection of which `prefix` has been read already.
pub async fn serve(server: Box<Server>, http: Arc<HttpConnection>) {
    let Some(manager) = http.manager() else {
        return;
    };
    let mut server = server;
    let mut drain = Drain::new(&http.connection);
    loop {
        let arrival = poll_fn(|cx| server.poll_head(cx, &http, manager, &mut drain)).await;
        let ended = match arrival {
            Arrival::End => break,
            Arrival::Refused(reason) => {
                server.refuse();
                let mut client = Downstream::Http1(&mut server);
                Box::pin(refuse(&http, &mut client, reason)).await
            }
            Arrival::Request(request) => {
                let parts = server.accept(*request, &http, manager);
                let mut client = Downstream::Http1(&mut server);
                // Boxed: a resting connection does not carry the size of a request.
                let handling = Box::pin(handle(&http, parts, &mut client));
                match drain.guard(handling, &http).await {
                    Some(ended) => ended,
                    None => return, // Its time to drain is over.
                }
            }
        };
        match ended {
            Ended::Whole if server.is_settled() || Box::pin(server.settle()).await => server.rest(),
            Ended::Whole => break,
            Ended::Broken | Ended::Switched => return,
        }
    }
    Box::pin(server.close()).await;
}

impl Server {
    /// A connection from which `prefix` has been read already.
    pub fn new(stream: Stream, prefix: BytesMut, manager: &HttpManager) -> Server {
        let limits = Limits {
            bytes: usize::try_from(manager.max_header_bytes).unwrap_or(usize::MAX),
            headers: manager.max_headers,
        };
        let now = Instant::now();
        Server {
            wire: Wire::new(stream, prefix),
            timer: Timer::default(),
            limits,
            scanner: Scanner::default(),
            skipped: 0,
            head_since: None,
            idle_since: now,
            decoder: Decoder::new(Length::Empty, limits),
            length: Length::Empty,
            owes_continue: false,
            version: Version::HTTP_11,
            is_head: false,
            accepts_trailers: false,
            keep_alive: true,
            coding: Coding::Over,
        }
    }

    // --- between requests ---

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        http: &HttpConnection,
        manager: &HttpManager,
        drain: &mut Drain,
    ) -> Poll<Arrival> {
        loop {
            match self.parse() {
                Ok(Some(request))
                    if request.parts.version == Version::HTTP_10 && !manager.accept_http_10 =>
                {
                    return Poll::Ready(Arrival::Refused(Reason::VersionTooLow));
                }
                Ok(Some(request)) => return Poll::Ready(Arrival::Request(request)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(source = %http.connection.source, %error, "malformed request");
                    return Poll::Ready(Arrival::Refused(reason(error)));
                }
            }
            match self.wire.poll_fill(cx, 0) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Arrival::End),
                Poll::Pending => break,
            }
        }
        if self.wire.inbox.is_empty() {
            self.wire.rest();
            if drain.poll(cx, http).is_ready() {
                return Poll::Ready(Arrival::End);
            }
            let idle = manager.idle_timeout.map(|idle| self.idle_since + idle);
            let end = http.end(manager);
            let Some(deadline) = idle.into_iter().chain(end).min() else {
                return Poll::Pending;
            };
            return self.timer.poll_until(cx, deadline).map(|()| Arrival::End);
        }
        let since = *self.head_since.get_or_insert_with(Instant::now);
        ready!(self.timer.poll_until(cx, since + manager.headers_timeout));
        Poll::Ready(Arrival::Refused(Reason::HeadersTimeout))
    }

    fn parse(&mut self) -> Result<Option<Box<h1::Request>>, HeadError> {
        skip_empty_lines(&mut self.wire.inbox, &mut self.skipped)?;
        let Some(length) = self.scanner.scan(&self.wire.inbox, &self.limits)? else {
            return Ok(None);
        };
        let head = self.wire.inbox.split_to(length).freeze();
        self.scanner = Scanner::default();
        self.skipped = 0;
        self.head_since = None;
        parse_request(&head, &self.limits).map(|request| Some(Box::new(request)))
    }

    /// What has come is no request: it is answered, in no state but that of a new connection, and nothing follows.
    fn refuse(&mut self) {
        self.decoder = Decoder::new(Length::Empty, self.limits);
        self.length = Length::Empty;
        self.owes_continue = false;
        self.version = Version::HTTP_11;
        self.is_head = false;
        self.keep_alive = false;
        self.coding = Coding::Over;
    }

    /// Takes a request in: an exchange begins.
    fn accept(
        &mut self,
        request: h1::Request,
        http: &HttpConnection,
        manager: &HttpManager,
    ) -> http::request::Parts {
        self.decoder = Decoder::new(request.length, self.limits);
        self.length = request.length;
        self.owes_continue = request.expects_continue;
        self.version = request.parts.version;
        self.is_head = request.parts.method == Method::HEAD;
        self.accepts_trailers = request.parts.headers.get_all(TE).iter().any(is_trailers);
        self.keep_alive = request.keep_alive && !http.is_worn(manager);
        self.coding = Coding::Over;
        request.parts
    }

    /// Whether nothing is left of the exchange and the connection may take another.
    fn is_settled(&self) -> bool {
        self.keep_alive && self.decoder.is_done()
    }

    /// After a whole response: whether the connection may take another request. What is left of an unwanted body is
    /// read away, if it is little and comes soon.
    async fn settle(&mut self) -> bool {
        // A client that still waits for `100 Continue` may send the body or not: RFC 9110 §10.1.1.
        if !self.keep_alive || self.owes_continue {
            return false;
        }
        let deadline = Instant::now() + LINGER;
        let mut left = DRAINED;
        poll_fn(|cx| {
            loop {
                match self.poll_piece(cx) {
                    Poll::Ready(None | Some(Ok(Piece::Trailers(_)))) => return Poll::Ready(true),
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                    Poll::Ready(Some(Ok(Piece::Data(data)))) => {
                        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                        match left.checked_sub(length) {
                            Some(rest) => left = rest,
                            None => return Poll::Ready(false),
                        }
                    }
                    Poll::Pending => {
                        return self.timer.poll_until(cx, deadline).map(|()| false);
                    }
                }
            }
        })
        .await
    }

    fn rest(&mut self) {
        self.idle_since = Instant::now();
        self.wire.rest();
    }

    /// Ends the connection in order. What the client still sends is read away for a moment: closing with unread bytes
    /// would be a reset, and a reset may destroy the answer before the client has read it.
    async fn close(&mut self) {
        let deadline = Instant::now() + LINGER;
        let mut left = DRAINED;
        let mut is_shut = false;
        poll_fn(|cx| {
            if self.timer.poll_until(cx, deadline).is_ready() {
                return Poll::Ready(());
            }
            if !is_shut {
                match ready!(self.wire.poll_shutdown(cx)) {
                    Ok(()) => is_shut = true,
                    Err(_) => return Poll::Ready(()),
                }
            }
            loop {
                self.wire.inbox.clear();
                let read = match ready!(self.wire.poll_fill(cx, 0)) {
                    Ok(read @ 1..) => u64::try_from(read).unwrap_or(u64::MAX),
                    Ok(0) | Err(_) => return Poll::Ready(()),
                };
                match left.checked_sub(read) {
                    Some(rest) => left = rest,
                    None => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    // --- the request's body ---

    /// How the request's body is framed.
    pub fn length(&self) -> Length {
        self.length
    }

    /// The next piece of the request's body. The first wish for it answers `Expect: 100-continue`.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            match self.decoder.decode(&mut self.wire.inbox) {
                Ok(Decoded::Data(data)) => {
                    self.owes_continue = false; // It did not wait.
                    return Poll::Ready(Some(Ok(Piece::Data(data))));
                }
                Ok(Decoded::Trailers(map)) => return Poll::Ready(Some(Ok(Piece::Trailers(map)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(error) => {
                    self.keep_alive = false;
                    return Poll::Ready(Some(Err(Broken::Protocol(error.as_str()))));
                }
            }
            if std::mem::take(&mut self.owes_continue) {
                self.wire.outbox.small().extend_from_slice(CONTINUE);
            }
            if self.coding == Coding::Over
                && let Err(broken) = ready!(self.poll_flush(cx))
            {
                return Poll::Ready(Some(Err(broken)));
            }
            match ready!(self.wire.poll_fill(cx, self.decoder.wanted())) {
                Ok(1..) => {}
                Ok(0) | Err(_) => {
                    self.keep_alive = false;
                    return Poll::Ready(Some(Err(Broken::Ended)));
                }
            }
        }
    }

    /// Whether all of the request's body was handed out.
    pub fn is_read(&self) -> bool {
        self.decoder.is_done()
    }

    /// Ready once the client has gone. What it sends meanwhile (the next request) is kept, if it is little.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.wire.inbox.len() < PIPELINED {
            match ready!(self.wire.poll_fill(cx, 0)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => {
                    self.keep_alive = false;
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    // --- the response ---

    /// Queues the response's head.
    pub fn begin(&mut self, mut head: Parts, length: Length, is_whole: bool) {
        if let Some(value) = head.headers.remove(CONNECTION) {
            self.keep_alive &= value != "close";
        }
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let bodiless = self.is_head
            || head.status.is_informational()
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let is_version_10 = self.version == Version::HTTP_10;
        let length = match length {
            Length::Chunked | Length::Close if is_version_10 => Length::Close,
            Length::Close => Length::Chunked,
            other => other,
        };
        self.keep_alive &= bodiless || length != Length::Close;
        // An answer that does not wait for the body: more of it may come than we would read away.
        let rest = self.owes_continue || self.decoder.wanted() > DRAINED;
        self.keep_alive &= !(is_whole && !self.decoder.is_done() && rest);
        // What has no body may still tell the length of the one it stands for: RFC 9110 §8.6.
        let framing = match head.status {
            _ if !bodiless => Some(length),
            StatusCode::NOT_MODIFIED => None,
            status if status.is_success() && status != StatusCode::NO_CONTENT => None,
            _ if self.is_head => None,
            _ => Some(Length::Empty),
        };
        let connection = match (switches, self.keep_alive, is_version_10) {
            (true, _, _) => Some("upgrade"),
            (_, false, _) => Some("close"),
            (_, true, true) => Some("keep-alive"),
            (_, true, false) => None,
        };
        let out = self.wire.outbox.small();
        h1::response_head(
            out,
            is_version_10,
            head.status,
            &head.headers,
            framing,
            connection,
        );
        self.coding = if bodiless {
            Coding::Empty
        } else {
            Coding::new(length)
        };
    }

    /// Ready once another piece may be queued.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.wire.outbox.has_room() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Queues a piece of the body.
    pub fn push(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        self.coding.push(&mut self.wire.outbox, data, is_last)
    }

    /// Queues the body's end; trailers only reach a client that asked for them (RFC 9110 §6.5.1).
    pub fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        let trailers = trailers.filter(|_| self.accepts_trailers);
        self.coding.finish(&mut self.wire.outbox, trailers)
    }

    /// Ready once all that was queued is written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.wire.poll_flush(cx).map_err(|_| {
            self.keep_alive = false;
            Broken::Ended
        })
    }

    /// The timer for the exchange's limits.
    pub fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    /// The response cannot be finished. Where only the connection's end would tell its end, it is made a reset.
    pub fn abort(&mut self) {
        self.keep_alive = false;
        if self.coding == Coding::Close {
            self.wire.stream().socket().reset_on_close();
        }
    }

    /// The connection itself, after a switch of protocols.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

fn is_trailers(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn reason(error: HeadError) -> Reason {
    match error {
        HeadError::TooLarge | HeadError::TooManyHeaders => Reason::HeadersTooLarge,
        HeadError::NoHost => Reason::MissingHost,
        HeadError::Coding => Reason::UnsupportedCoding,
        HeadError::Version | HeadError::CodingInVersion10 => Reason::VersionTooLow,
        _ => Reason::BadRequest,
    }
}
