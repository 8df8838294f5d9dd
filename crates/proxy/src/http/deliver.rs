//! The way back: the response's head, then both bodies by turns until the response has passed.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h1::Length;
use http::header::{HeaderValue, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use tokio::time::timeout;

use super::attempt::{Answer, Borrowed, send_rest};
use super::body::{Broken, Piece, RequestBody};
use super::downstream::Downstream;
use super::exchange::Exchange;
use super::limits::Limits;
use super::pool::Pool;
use super::reply::Local;
use super::router::{Ended, Way};
use super::upstream::Upstream;
use crate::cluster::{Chosen, Outcome};
use crate::copy::{End, both};
use crate::reason::Reason;

/// Turns that a connection's task gets to write what a stream has queued before the stream is reset.
const FLUSHES: usize = 2;
/// How long the client of HTTP/1 may take for what was queued of a response that broke off.
const LAST_WORDS: Duration = Duration::from_secs(1);
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Where a response's body comes from.
#[derive(Debug)]
pub enum Reply {
    /// Ourselves.
    Local(Box<Local>),
    /// The upstream.
    Upstream(Box<Passing>),
    /// Both ends have switched protocols.
    Switched(Box<Passing>),
}

/// A response on its way from the upstream.
#[derive(Debug)]
pub struct Passing {
    /// Where it comes from.
    pub upstream: Upstream,
    /// How its body is framed.
    pub length: Length,
    /// How long it may take.
    pub limits: Limits,
    /// Where the connection goes afterwards.
    pub pool: Arc<Pool>,
    /// Whose it is, and the load upon it.
    pub chosen: Chosen,
    /// What comes of it is told by the trailers.
    pub is_judged_late: bool,
}

impl Passing {
    /// The rest of a response; its endpoint is judged by its head if that says all there is to say.
    pub fn new(
        borrowed: Borrowed,
        answer: &Answer,
        limits: Limits,
        chosen: Chosen,
        is_grpc: bool,
    ) -> Passing {
        let head = &answer.head;
        let of_grpc = grpc_status(&head.headers).filter(|_| is_grpc);
        let is_judged_late = is_grpc && of_grpc.is_none() && head.status == StatusCode::OK;
        if !is_judged_late {
            chosen.report(of_grpc.map_or(Outcome::Status(head.status), Outcome::grpc));
        }
        Passing {
            upstream: borrowed.upstream,
            pool: borrowed.pool,
            length: answer.length,
            limits,
            chosen,
            is_judged_late,
        }
    }
}

/// The status of a gRPC response.
fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Sends a response to the client.
pub async fn deliver(way: &mut Way<'_, '_>, response: Response<Reply>) -> Ended {
    let (head, reply) = response.into_parts();
    let ended = match reply {
        Reply::Local(reply) => local(way, head, reply.body).await,
        Reply::Upstream(passing) => pass(way, head, *passing).await,
        Reply::Switched(passing) => Box::pin(carry(way, head, *passing)).await,
    };
    way.exchange.received(way.body.received());
    match ended {
        Ok(ended) => {
            way.exchange.complete();
            ended
        }
        Err(reason) => {
            way.exchange.fail(reason);
            if way.http.is_http2 && reason != Reason::ClientGone {
                // What was queued goes out first: a reset would discard it.
                for _ in 0..FLUSHES {
                    tokio::task::yield_now().await;
                }
            } else if reason != Reason::ClientGone {
                // What has come of the response is the client's; that it is cut shows by its framing.
                let client = &mut *way.client;
                let _ = timeout(LAST_WORDS, poll_fn(|cx| client.poll_flush(cx))).await;
            }
            way.client.abort();
            Ended::Broken
        }
    }
}

async fn local(way: &mut Way<'_, '_>, mut head: Parts, body: Bytes) -> Result<Ended, Reason> {
    let length = match u64::try_from(body.len()).unwrap_or(u64::MAX) {
        0 => Length::Empty,
        length => Length::Exact(length),
    };
    let is_head = way.parts.method == Method::HEAD;
    if is_head && let Length::Exact(length) = length {
        head.headers
            .insert(http::header::CONTENT_LENGTH, length.into());
    }
    let (body, length) = if is_head {
        (Bytes::new(), Length::Empty)
    } else {
        (body, length)
    };
    let gone = |_: Broken| Reason::ClientGone;
    way.client.begin(head, length, true).map_err(gone)?;
    way.exchange.sent(body.len());
    if !body.is_empty() {
        way.client.push(body, true).map_err(gone)?;
    }
    let limits = Limits::idle(way.manager.stream_idle_timeout);
    let client = &mut *way.client;
    poll_fn(|cx| match client.poll_flush(cx) {
        Poll::Ready(flushed) => Poll::Ready(flushed.map_err(gone)),
        Poll::Pending => limits.poll(client.timer(), cx).map(Err),
    })
    .await?;
    Ok(Ended::Whole)
}

/// Both bodies, by turns.
struct Relay<'a, 'c> {
    client: &'a mut Downstream<'c>,
    upstream: &'a mut Upstream,
    body: &'a mut RequestBody,
    limits: &'a mut Limits,
    exchange: &'a mut Exchange,
    /// Of the trailers.
    grpc_status: Option<u32>,
    /// The response's end was queued.
    is_over: bool,
    /// Nothing more of the request is to be sent.
    is_sent: bool,
}

async fn pass(way: &mut Way<'_, '_>, head: Parts, passing: Passing) -> Result<Ended, Reason> {
    let Passing {
        mut upstream,
        length,
        mut limits,
        pool,
        chosen,
        is_judged_late,
    } = passing;
    let begun = way.client.begin(head, length, false);
    begun.map_err(|_| Reason::ClientGone)?;
    way.body.forget();
    let mut relay = Relay {
        grpc_status: None,
        is_over: length == Length::Empty,
        is_sent: upstream.is_finished(),
        client: &mut *way.client,
        upstream: &mut upstream,
        body: &mut way.body,
        limits: &mut limits,
        exchange: &mut way.exchange,
    };
    let passed = poll_fn(|cx| relay.poll(cx)).await;
    if is_judged_late {
        match (relay.grpc_status, passed) {
            (Some(status), _) => chosen.report(Outcome::grpc(status)),
            (None, Ok(())) => chosen.report(Outcome::Status(StatusCode::OK)),
            (None, Err(Reason::ClientGone | Reason::BadRequest)) => {}
            (None, Err(_)) => chosen.report(Outcome::Reset),
        }
    }
    passed?;
    if let Upstream::Http1(connection) = upstream {
        pool.give_back(connection, &chosen);
    }
    Ok(Ended::Whole)
}

impl Relay<'_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let queued = self.poll_response(cx)?;
        let flushed = self.client.poll_flush(cx);
        if let Poll::Ready(Err(_)) = flushed {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        if queued.is_ready() {
            if flushed.is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.limits.flushes();
        }
        if !self.is_sent {
            match send_rest(self.body, self.client, self.upstream, self.limits, cx) {
                Poll::Ready(Ok(())) => {
                    self.is_sent = true;
                    self.limits.request_ended();
                }
                Poll::Ready(Err(Broken::Protocol(_))) => {
                    return Poll::Ready(Err(Reason::BadRequest));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::ClientGone)),
                Poll::Pending => {}
            }
        }
        if self.body.is_read() && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Reason::ClientGone));
        }
        self.limits.poll(self.client.timer(), cx).map(Err)
    }

    /// Moves the response's body on as far as both sides allow; ready once its end was queued.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Reason> {
        let gone = |_: Broken| Reason::ClientGone;
        while !self.is_over {
            match self.client.poll_ready(cx) {
                Poll::Ready(ready) => ready.map_err(gone)?,
                Poll::Pending => return Ok(Poll::Pending),
            }
            let next = match self.upstream.poll_piece(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => return Ok(Poll::Pending),
            };
            match next {
                Some(Ok(Piece::Data(data))) => {
                    self.limits.progress();
                    self.exchange.sent(data.len());
                    self.is_over = self.upstream.is_read();
                    self.client.push(data, self.is_over).map_err(gone)?;
                }
                Some(Ok(Piece::Trailers(trailers))) => {
                    self.is_over = true;
                    self.grpc_status = grpc_status(&trailers);
                    if let Some(trace) = &mut self.exchange.trace {
                        trace.grpc_status(&trailers);
                    }
                    self.client.finish(Some(trailers)).map_err(gone)?;
                }
                None => {
                    self.is_over = true;
                    self.client.finish(None).map_err(gone)?;
                }
                Some(Err(broken)) => return Err(reason(broken)),
            }
        }
        Ok(Poll::Ready(()))
    }
}

fn reason(broken: Broken) -> Reason {
    match broken {
        Broken::Protocol(_) => Reason::UpstreamProtocol,
        Broken::Reset | Broken::Refused => Reason::UpstreamReset,
        Broken::Ended | Broken::Alert => Reason::UpstreamClosed,
    }
}

/// The client's answer, then the bytes of whatever both ends speak now.
async fn carry(way: &mut Way<'_, '_>, mut head: Parts, passing: Passing) -> Result<Ended, Reason> {
    let Passing {
        mut upstream,
        limits,
        ..
    } = passing;
    if way.http.is_http2 {
        head.status = StatusCode::OK;
    } else {
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        let protocol = way.target.upgrade.as_deref().unwrap_or_default();
        if let Ok(protocol) = HeaderValue::from_str(protocol) {
            head.headers.insert(UPGRADE, protocol);
        }
    }
    way.exchange.line.response_code = head.status.as_u16();
    let client = &mut *way.client;
    let begun = client.begin(head, Length::Close, false);
    begun.map_err(|_| Reason::ClientGone)?;
    poll_fn(|cx| match client.poll_flush(cx) {
        Poll::Ready(flushed) => Poll::Ready(flushed.map_err(|_| Reason::ClientGone)),
        Poll::Pending => {
            let late = ready!(limits.poll(client.timer(), cx));
            Poll::Ready(Err(late))
        }
    })
    .await?;
    let (Some(mut first), Some(mut second)) = (client.tunnel(), upstream.tunnel()) else {
        return Err(Reason::UpstreamProtocol);
    };
    // The route's timeout does not count any more: RFC 9110 §7.8 has no response to wait for.
    let outcome = both(&mut first, &mut second, limits.silence()).await;
    way.exchange
        .sent(usize::try_from(outcome.backward).unwrap_or(usize::MAX));
    way.body.carried(outcome.forward);
    match outcome.end {
        End::Closed => Ok(Ended::Switched),
        End::First(_) => Err(Reason::ClientGone),
        End::Second(_) => Err(Reason::UpstreamClosed),
        End::Idle => Err(Reason::IdleTimeout),
    }
}
