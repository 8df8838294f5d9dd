//! Bodies in both directions, and what is watched while they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::exchange::Exchange;
use super::pool::Lease;
use crate::reason::Reason;

/// How far a request's body has come.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    complete: AtomicBool,
}

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub enum RequestBody {
    /// None.
    Empty,
    /// The client's.
    Client(Incoming, Arc<Progress>),
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub enum ReplyBody {
    /// Our own.
    Local(Option<Bytes>, Box<Exchange>),
    /// The upstream's.
    Upstream(Box<UpstreamBody>),
}

/// The upstream's body, with everything that ends when it ends.
#[derive(Debug)]
pub struct UpstreamBody {
    body: Incoming,
    lease: Option<Lease>,
    exchange: Exchange,
    limits: Limits,
}

/// How long a response may take.
#[derive(Debug, Default)]
pub struct Limits {
    /// All of it.
    pub deadline: Option<Instant>,
    /// Without a byte.
    pub idle: Option<Duration>,
    /// Made when there is first something to wait for.
    timer: Option<Pin<Box<Sleep>>>,
    last: Option<Instant>,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream's body did.
    #[error("upstream body: {0}")]
    Upstream(#[from] hyper::Error),
    /// Time is up.
    #[error("{}", .0.row().details)]
    Late(Reason),
}

// === impl Progress, RequestBody ===

impl Progress {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether all of it was read.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// Notes that there is no more to come.
    pub fn finish(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }
}

impl RequestBody {
    /// The client's body, watched.
    pub fn client(body: Incoming, progress: &Arc<Progress>) -> RequestBody {
        if body.is_end_stream() {
            progress.finish();
            return RequestBody::Empty;
        }
        RequestBody::Client(body, progress.clone())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Client(body, progress) => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        let length = frame.data_ref().map_or(0, Bytes::len);
                        progress
                            .bytes
                            .fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
                        if body.is_end_stream() {
                            progress.finish();
                        }
                    }
                    None => progress.finish(),
                    Some(Err(_)) => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client(body, _) => body.size_hint(),
        }
    }
}

// === impl ReplyBody ===

impl ReplyBody {
    /// The upstream's body; `lease` goes back to its pool once all of it has passed.
    pub fn upstream(
        body: Incoming,
        lease: Option<Lease>,
        exchange: Exchange,
        limits: Limits,
    ) -> ReplyBody {
        let mut upstream = UpstreamBody {
            body,
            lease,
            exchange,
            limits,
        };
        if upstream.body.is_end_stream() {
            upstream.complete();
        }
        ReplyBody::Upstream(Box::new(upstream))
    }
}

impl UpstreamBody {
    fn complete(&mut self) {
        self.exchange.complete();
        if let Some(lease) = self.lease.take() {
            // A request still on its way keeps the connection busy: only a whole exchange makes it reusable.
            lease.give_back(self.exchange.progress().is_complete());
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.limits.last = None;
                self.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
                if self.body.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.exchange.fail(Reason::UpstreamClosed);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let reason = ready!(self.limits.poll(cx));
                self.exchange.fail(reason);
                Poll::Ready(Some(Err(BodyError::Late(reason))))
            }
        }
    }
}

impl Limits {
    /// Limits of a response that begins now.
    pub fn new(deadline: Option<Instant>, idle: Option<Duration>) -> Limits {
        Limits {
            deadline,
            idle,
            ..Limits::default()
        }
    }

    /// Ready once a limit has passed. One timer serves both; it is set anew only when it fires.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        if self.deadline.is_none() && self.idle.is_none() {
            return Poll::Pending;
        }
        let since = *self.last.get_or_insert_with(Instant::now);
        loop {
            let silent = self.idle.map(|idle| since + idle);
            let next = match (self.deadline, silent) {
                (Some(deadline), Some(silent)) => deadline.min(silent),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Poll::Pending,
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(Reason::Timeout);
            }
            if silent.is_some_and(|silent| silent <= now) {
                return Poll::Ready(Reason::IdleTimeout);
            }
            timer.as_mut().reset(next);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ReplyBody::Local(bytes, exchange) => {
                exchange.complete();
                let taken = bytes.take().filter(|bytes| !bytes.is_empty());
                exchange.sent(taken.as_ref().map_or(0, Bytes::len));
                Poll::Ready(taken.map(|bytes| Ok(Frame::data(bytes))))
            }
            ReplyBody::Upstream(upstream) => upstream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Local(bytes, _) => bytes.as_ref().is_none_or(Bytes::is_empty),
            ReplyBody::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Local(bytes, _) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(0))
            }
            ReplyBody::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}
