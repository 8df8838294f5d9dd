//! An HTTP/1 connection to an upstream: one exchange at a time.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h1::{Decoded, Decoder, Length, Limits, Scanner, parse_response};
use http::response::Parts;
use http::{HeaderMap, Method, StatusCode};
use rustls::AlertDescription as Alert;

use super::Coding;
use crate::http::body::{Broken, Next, Piece};
use crate::http::pool::Counted;
use crate::http::wire::Wire;
use crate::net::Stream;
use crate::upstream::Connected;

/// Interim responses (1xx) before the final one; more can only be meant to keep us busy.
const INTERIM: usize = 16;

/// A request's head, for [`Client::begin`].
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Path and query, visible ASCII.
    pub target: &'a str,
    /// The authority, visible ASCII.
    pub host: &'a str,
    /// Its headers, without those of the hop.
    pub headers: &'a HeaderMap,
    /// How its body is framed.
    pub length: Length,
    /// The protocol to switch to.
    pub upgrade: Option<&'a str>,
}

/// A connection's places: among the cluster's, and among its pool's.
pub type Held = (Connected, Counted);

/// A connection to an upstream.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    _held: Held,
    /// Exchanges begun on it.
    pub used: u64,
    /// When it was last given back.
    pub since: Instant,
    /// When it was opened.
    pub opened: Instant,
    method: Method,
    switches: bool,
    coding: Coding,
    has_body: bool,
    body_begun: bool,
    written: bool,
    scanner: Scanner,
    interim: usize,
    decoder: Decoder,
    answered: bool,
    keep_alive: bool,
}

impl Client {
    /// A connection that was just opened.
    pub fn new(stream: Stream, held: Held) -> Client {
        Client {
            wire: Wire::new(stream, BytesMut::new()),
            _held: held,
            used: 0,
            since: Instant::now(),
            opened: Instant::now(),
            method: Method::GET,
            switches: false,
            coding: Coding::Over,
            has_body: false,
            body_begun: false,
            written: false,
            scanner: Scanner::default(),
            interim: 0,
            decoder: Decoder::new(Length::Empty, Limits::default()),
            answered: true,
            keep_alive: true,
        }
    }

    /// Queues a request's head: an exchange begins.
    pub fn begin(&mut self, head: &Head<'_>) {
        self.used = self.used.saturating_add(1);
        self.method.clone_from(head.method);
        self.switches = head.upgrade.is_some();
        self.coding = Coding::new(head.length);
        self.has_body = head.length != Length::Empty;
        self.body_begun = false;
        self.written = false;
        self.scanner = Scanner::default();
        self.interim = 0;
        self.answered = false;
        let out = self.wire.outbox.small();
        let Head {
            method,
            target,
            host,
            headers,
            length,
            upgrade,
        } = *head;
        h1::request_head(out, method, target, host, headers, length, upgrade);
        if self.coding == Coding::Empty {
            self.coding = Coding::Over;
        }
    }

    /// Whether a resting connection may serve: it has neither ended nor spoken.
    pub fn is_fresh(&mut self) -> bool {
        self.wire.is_fresh()
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
        self.body_begun = true;
        self.coding.push(&mut self.wire.outbox, data, is_last)
    }

    /// Queues the body's end.
    pub fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        self.coding.finish(&mut self.wire.outbox, trailers)
    }

    /// Whether the request's end was queued.
    pub fn is_finished(&self) -> bool {
        self.coding == Coding::Over
    }

    /// Ready once all that was queued is written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let polled = self.wire.poll_flush(cx);
        // A write that failed at once has left nothing behind.
        self.written |= !matches!(polled, Poll::Ready(Err(_)));
        polled.map_err(|_| Broken::Ended)
    }

    /// Whether the server cannot have a request it would act upon: nothing was written, or nothing of its body.
    pub fn is_unsent(&self) -> bool {
        !self.written || (self.has_body && !self.body_begun)
    }

    /// The response's head; interim ones are passed over, for the client got what it needs from us.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Parts, Length), Broken>> {
        let limits = Limits::default();
        loop {
            let found = self.scanner.scan(&self.wire.inbox, &limits);
            let found = found.map_err(|error| Broken::Protocol(error.as_str()))?;
            let Some(length) = found else {
                match ready!(self.wire.poll_fill(cx, 0)) {
                    Ok(1..) => continue,
                    Err(error) if is_refusal(&error) => return Poll::Ready(Err(Broken::Alert)),
                    Ok(0) | Err(_) if self.wire.inbox.is_empty() && self.interim == 0 => {
                        return Poll::Ready(Err(Broken::Ended));
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Reset)),
                }
            };
            self.scanner = Scanner::default();
            let head = self.wire.inbox.split_to(length).freeze();
            let response = parse_response(&head, &self.method, &limits)
                .map_err(|error| Broken::Protocol(error.as_str()))?;
            if response.is_interim() {
                self.interim = self.interim.saturating_add(1);
                if self.interim > INTERIM {
                    return Poll::Ready(Err(Broken::Protocol("too many interim responses")));
                }
                continue;
            }
            let switched = response.parts.status == StatusCode::SWITCHING_PROTOCOLS;
            if switched && !self.switches {
                return Poll::Ready(Err(Broken::Protocol("switch of protocols unasked")));
            }
            self.answered = true;
            self.keep_alive = response.keep_alive && !switched;
            self.decoder = Decoder::new(response.length, limits);
            return Poll::Ready(Ok((response.parts, response.length)));
        }
    }

    /// The next piece of the response's body.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            match self.decoder.decode(&mut self.wire.inbox) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Piece::Data(data)))),
                Ok(Decoded::Trailers(map)) => return Poll::Ready(Some(Ok(Piece::Trailers(map)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(error) => {
                    return Poll::Ready(Some(Err(Broken::Protocol(error.as_str()))));
                }
            }
            match ready!(self.wire.poll_fill(cx, self.decoder.wanted())) {
                Ok(1..) => {}
                Ok(0) if self.decoder.close().is_ok() => return Poll::Ready(None),
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Broken::Ended))),
            }
        }
    }

    /// Whether all of the response's body was handed out.
    pub fn is_read(&self) -> bool {
        self.decoder.is_done()
    }

    /// Makes the connection ready for another exchange; `false` if it must not have one: something of this exchange is
    /// missing or too much, or one of both ends has had enough.
    pub fn settle(&mut self, limit: Option<u64>) -> bool {
        let whole = self.answered
            && self.decoder.is_done()
            && self.is_finished()
            && self.wire.outbox.is_empty()
            && self.wire.inbox.is_empty();
        if !whole || !self.keep_alive || limit.is_some_and(|limit| self.used >= limit) {
            return false;
        }
        self.since = Instant::now();
        self.wire.rest();
        true
    }

    /// The connection itself, after a switch of protocols.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// Whether the peer has ended TLS because of who we are, or are not.
fn is_refusal(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(rustls::Error::AlertReceived(alert)) = inner else {
        return false;
    };
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}
