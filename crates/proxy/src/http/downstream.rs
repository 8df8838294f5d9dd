//! The client's side of one exchange, whichever HTTP it speaks.

use std::task::{Context, Poll};

use bytes::Bytes;
use h1::Length;
use http::HeaderMap;
use http::response::Parts;

use super::body::{Broken, Next};
use super::timer::Timer;
use super::tunnel::Tunnel;
use super::{h1 as http1, h2 as http2};

/// The client of one exchange.
pub enum Downstream<'a> {
    /// An HTTP/1 connection.
    Http1(&'a mut http1::Server),
    /// A stream of an HTTP/2 connection.
    Http2(&'a mut http2::ServerStream),
}

impl Downstream<'_> {
    /// How the request's body is framed.
    pub fn length(&self) -> Length {
        match self {
            Downstream::Http1(server) => server.length(),
            Downstream::Http2(stream) => stream.length(),
        }
    }

    /// The next piece of the request's body.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self {
            Downstream::Http1(server) => server.poll_piece(cx),
            Downstream::Http2(stream) => stream.poll_piece(cx),
        }
    }

    /// Whether all of the request's body was handed out.
    pub fn is_read(&self) -> bool {
        match self {
            Downstream::Http1(server) => server.is_read(),
            Downstream::Http2(stream) => stream.is_read(),
        }
    }

    /// Queues the response's head. `length` is its body's, as far as known; `is_whole` says that nothing of the body is
    /// left to wait for.
    pub fn begin(&mut self, head: Parts, length: Length, is_whole: bool) -> Result<(), Broken> {
        match self {
            Downstream::Http1(server) => {
                server.begin(head, length, is_whole);
                Ok(())
            }
            Downstream::Http2(stream) => stream.begin(head, length),
        }
    }

    /// Ready once another piece may be queued.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Downstream::Http1(server) => server.poll_ready(cx),
            Downstream::Http2(stream) => stream.poll_ready(cx),
        }
    }

    /// Queues a piece of the response's body, after [`Self::poll_ready`].
    pub fn push(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        match self {
            Downstream::Http1(server) => server.push(data, is_last),
            Downstream::Http2(stream) => stream.push(data, is_last),
        }
    }

    /// Queues the response's end, after [`Self::poll_ready`].
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Downstream::Http1(server) => server.finish(trailers.as_ref()),
            Downstream::Http2(stream) => stream.finish(trailers),
        }
    }

    /// Ready once all that was queued is written (HTTP/2: is the connection's to write).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Downstream::Http1(server) => server.poll_flush(cx),
            Downstream::Http2(stream) => stream.poll_ready(cx),
        }
    }

    /// Ready once the client has gone away; for requests that were read whole.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Downstream::Http1(server) => server.poll_gone(cx),
            Downstream::Http2(stream) => stream.poll_gone(cx),
        }
    }

    /// The timer for the exchange's limits.
    pub fn timer(&mut self) -> &mut Timer {
        match self {
            Downstream::Http1(server) => server.timer(),
            Downstream::Http2(stream) => stream.timer(),
        }
    }

    /// Breaks the response off: the client must not take it for whole.
    pub fn abort(&mut self) {
        match self {
            Downstream::Http1(server) => server.abort(),
            Downstream::Http2(stream) => stream.abort(),
        }
    }

    /// What is left once both ends have switched protocols; `None` if there is no stream.
    pub fn tunnel(&mut self) -> Option<Tunnel<'_>> {
        match self {
            Downstream::Http1(server) => Some(Tunnel::Wire(server.wire())),
            Downstream::Http2(stream) => stream.tunnel(),
        }
    }
}
