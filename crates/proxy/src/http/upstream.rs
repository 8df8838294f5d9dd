//! The upstream's side of one exchange, whichever HTTP it speaks.

use std::task::{Context, Poll};

use bytes::Bytes;
use h1::Length;
use http::HeaderMap;
use http::response::Parts;

use super::body::{Broken, Next};
use super::tunnel::Tunnel;
use super::{h1 as http1, h2 as http2};

/// The upstream of one exchange.
#[derive(Debug)]
pub enum Upstream {
    /// An HTTP/1 connection, lent for the exchange.
    Http1(Box<http1::Client>),
    /// A stream of an HTTP/2 connection.
    Http2(Box<http2::ClientStream>),
}

impl Upstream {
    /// Ready once another piece of the request's body may be queued.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Upstream::Http1(client) => client.poll_ready(cx),
            Upstream::Http2(stream) => stream.poll_ready(cx),
        }
    }

    /// Queues a piece of the request's body, after [`Self::poll_ready`].
    pub fn push(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        match self {
            Upstream::Http1(client) => client.push(data, is_last),
            Upstream::Http2(stream) => stream.push(data, is_last),
        }
    }

    /// Queues the request's end, after [`Self::poll_ready`].
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Upstream::Http1(client) => client.finish(trailers.as_ref()),
            Upstream::Http2(stream) => stream.finish(trailers),
        }
    }

    /// Whether the request's end was queued.
    pub fn is_finished(&self) -> bool {
        match self {
            Upstream::Http1(client) => client.is_finished(),
            Upstream::Http2(stream) => stream.is_finished(),
        }
    }

    /// Ready once all that was queued is written (HTTP/2: is the connection's to write).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Upstream::Http1(client) => client.poll_flush(cx),
            Upstream::Http2(stream) => stream.poll_ready(cx),
        }
    }

    /// The response's head, and how its body is framed.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Parts, Length), Broken>> {
        match self {
            Upstream::Http1(client) => client.poll_head(cx),
            Upstream::Http2(stream) => stream.poll_head(cx),
        }
    }

    /// The next piece of the response's body.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self {
            Upstream::Http1(client) => client.poll_piece(cx),
            Upstream::Http2(stream) => stream.poll_piece(cx),
        }
    }

    /// Whether all of the response's body was handed out.
    pub fn is_read(&self) -> bool {
        match self {
            Upstream::Http1(client) => client.is_read(),
            Upstream::Http2(stream) => stream.is_read(),
        }
    }

    /// Whether the server cannot have begun with the request.
    pub fn is_unsent(&self) -> bool {
        match self {
            Upstream::Http1(client) => client.is_unsent(),
            Upstream::Http2(_) => false,
        }
    }

    /// What is left once both ends have switched protocols; `None` if there is no stream.
    pub fn tunnel(&mut self) -> Option<Tunnel<'_>> {
        match self {
            Upstream::Http1(client) => Some(Tunnel::Wire(client.wire())),
            Upstream::Http2(stream) => stream.tunnel(),
        }
    }
}
