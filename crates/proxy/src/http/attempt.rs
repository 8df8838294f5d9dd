//! One attempt: a connection, the request on it, the response's head. May be repeated while the body may.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h1::Length;
use h2::ext::Protocol;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use tokio::time::{Instant, sleep};

use super::body::{Broken, Piece, RequestBody};
use super::downstream::Downstream;
use super::h1::Head;
use super::h2::Connection;
use super::headers::{Target, uri};
use super::limits::Limits;
use super::pool::{OpenError, Pool};
use super::server::HttpConnection;
use super::upstream::Upstream;
use crate::cluster::{Chosen, Cluster, Outcome, Overflow, UpstreamHttp};
use crate::listener::H2;
use crate::reason::Reason;

/// How long an upstream's first settings may take.
const SETTINGS: Duration = Duration::from_secs(1);

/// What an attempt sends, and how long it may take.
pub struct Attempt<'a, 'c> {
    /// The connection the request came on.
    pub http: &'a HttpConnection,
    /// Who asks.
    pub client: &'a mut Downstream<'c>,
    /// Its method.
    pub method: &'a Method,
    /// Its headers, as the upstream is to see them.
    pub headers: &'a HeaderMap,
    /// Where it goes.
    pub target: &'a Target,
    /// Its body, at its beginning.
    pub body: &'a mut RequestBody,
    /// How long it may take.
    pub limits: &'a mut Limits,
}

/// A response whose head has come.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: http::response::Parts,
    /// How its body is framed.
    pub length: Length,
    /// Both ends have switched protocols.
    pub switched: bool,
}

/// Where the rest of a response comes from.
#[derive(Debug)]
pub struct Borrowed {
    /// The connection or stream.
    pub upstream: Upstream,
    /// Where the connection goes afterwards.
    pub pool: Arc<Pool>,
}

/// Why an attempt brought no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The reason as logs and replies name it.
    pub reason: Reason,
    /// Whether the server may have begun with it.
    pub reach: Reach,
    /// What it says of the endpoint, if anything.
    pub outcome: Option<Outcome>,
}

/// How far a failed request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// There was no connection.
    Unconnected,
    /// The server has certainly not begun with it: it may be sent again whatever it is.
    Unprocessed,
    /// A connection that had rested ended before the first byte of the response: it was most likely closed for
    /// resting, so an idempotent request may be sent again.
    Stale,
    /// The server may have begun with it.
    Sent,
    /// The client is the one who failed.
    Client,
}

/// Which side broke off.
enum Cut {
    Client(Broken),
    Upstream(Broken),
}

// === impl Failure ===

impl Failure {
    fn new(reason: Reason, reach: Reach) -> Failure {
        let outcome = match (reason, reach) {
            (_, Reach::Client | Reach::Unconnected) => None,
            (Reason::Timeout | Reason::PerTryTimeout | Reason::PerTryIdleTimeout, _) => {
                Some(Outcome::Timeout)
            }
            (Reason::IdleTimeout | Reason::MaxDuration | Reason::RequestTimeout, _) => None,
            _ => Some(Outcome::Reset),
        };
        Failure {
            reason,
            reach,
            outcome,
        }
    }

    /// Nothing was sent, because there was nowhere to send it.
    pub fn unsent(reason: Reason) -> Failure {
        Failure::new(reason, Reach::Unconnected)
    }

    fn client(broken: Broken) -> Failure {
        let reason = match broken {
            Broken::Protocol(_) => Reason::BadRequest,
            Broken::Ended | Broken::Reset | Broken::Refused | Broken::Alert => Reason::ClientGone,
        };
        Failure::new(reason, Reach::Client)
    }

    /// Whether it may be sent again without anybody's policy: RFC 9110 §9.2.2, RFC 9113 §8.7.
    pub fn is_free(&self, method: &Method) -> bool {
        match self.reach {
            Reach::Unprocessed => true,
            Reach::Stale => method.is_idempotent(),
            Reach::Unconnected | Reach::Sent | Reach::Client => false,
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        let (reason, outcome) = match error {
            OpenError::Connect(error) => (error.reason(), error.outcome()),
            OpenError::Handshake(_) => (Reason::ConnectFailed, Some(Outcome::ConnectFailed)),
        };
        Failure {
            reason,
            reach: Reach::Unconnected,
            outcome,
        }
    }
}

impl From<Overflow> for Failure {
    fn from(overflow: Overflow) -> Failure {
        Failure::new(overflow.into(), Reach::Unconnected)
    }
}

/// Which HTTP the cluster is spoken to with for this client; `Some` is HTTP/2.
fn http2_for(cluster: &Cluster, http: &HttpConnection) -> Option<H2> {
    match cluster.config.http {
        UpstreamHttp::Http1 => None,
        UpstreamHttp::Http2(settings) => Some(settings),
        UpstreamHttp::Downstream(settings) => http.is_http2.then_some(settings),
    }
}

impl Attempt<'_, '_> {
    /// Sends the request to the chosen endpoint, and waits for the response's head.
    pub async fn run(mut self, chosen: &mut Chosen) -> Result<(Answer, Borrowed), Failure> {
        let pool = chosen
            .endpoint
            .pools
            .of(self.http.connection.worker.index)
            .cloned()
            .unwrap_or_default();
        if self.body.length() == Length::Empty || self.target.upgrade.is_some() {
            self.limits.request_ended();
        }
        let http2 = http2_for(&chosen.cluster, self.http);
        let (mut upstream, reused) = match http2 {
            None => self.connect1(&pool, chosen).await?,
            Some(settings) => self.connect2(&pool, chosen, settings).await?,
        };
        self.limits.connected();
        let answered = self.exchange(&mut upstream).await;
        let (head, length) = answered.map_err(|cut| match cut {
            Ok(Cut::Client(broken)) => Failure::client(broken),
            Ok(Cut::Upstream(broken)) => failure(&upstream, broken, reused),
            Err(reason @ Reason::ClientGone) => Failure::new(reason, Reach::Client),
            Err(reason) => Failure::new(reason, Reach::Sent),
        })?;
        // A 2xx that has a length is an ordinary answer: RFC 9110 §9.3.6 allows none where the protocol is switched.
        let agrees = match http2 {
            Some(_) => head.status == StatusCode::OK && length == Length::Chunked,
            None => head.status == StatusCode::SWITCHING_PROTOCOLS,
        };
        let answer = Answer {
            switched: agrees && self.target.upgrade.is_some(),
            head,
            length,
        };
        Ok((answer, Borrowed { upstream, pool }))
    }

    async fn connect1(
        &mut self,
        pool: &Arc<Pool>,
        chosen: &mut Chosen,
    ) -> Result<(Upstream, bool), Failure> {
        let (mut connection, reused) = match pool.take(&chosen.cluster) {
            Some(connection) => (connection, true),
            None => {
                let _waiting = chosen.pend()?;
                chosen.begin()?; // Before a connection is opened for nothing.
                // Boxed: most requests find a connection.
                self.within(Box::pin(pool.take_or_open(chosen))).await??
            }
        };
        chosen.begin()?;
        // From extended CONNECT back to an upgrade.
        let method = match (self.method, &self.target.upgrade) {
            (&Method::CONNECT, Some(_)) => &Method::GET,
            (method, _) => method,
        };
        let upgrade = self.target.upgrade.as_deref();
        connection.begin(&Head {
            method,
            target: &self.target.path_and_query,
            host: &self.target.authority,
            headers: self.headers,
            length: if upgrade.is_some() {
                Length::Empty
            } else {
                self.body.length()
            },
            upgrade,
        });
        Ok((Upstream::Http1(connection), reused))
    }

    async fn connect2(
        &mut self,
        pool: &Arc<Pool>,
        chosen: &mut Chosen,
        settings: H2,
    ) -> Result<(Upstream, bool), Failure> {
        let (place, reused) = match pool.enter(&chosen.cluster, settings) {
            Some(place) => (place, true),
            None => {
                let _waiting = chosen.pend()?;
                chosen.begin()?;
                self.within(Box::pin(pool.enter_or_open(chosen, settings)))
                    .await??
            }
        };
        chosen.begin()?;
        if self.target.upgrade.is_some() {
            self.within(Box::pin(allowed(&place))).await?;
        }
        let request = self.head2()?;
        let is_end = self.body.length() == Length::Empty && self.target.upgrade.is_none();
        match place.send(request, is_end).await {
            Ok(stream) => Ok((Upstream::Http2(Box::new(stream)), reused)),
            Err(_) => Err(Failure::new(Reason::UpstreamRefused, Reach::Unprocessed)),
        }
    }

    /// The head of an HTTP/2 request.
    fn head2(&self) -> Result<Request<()>, Failure> {
        let target = self.target;
        // As Envoy: a rewrite has made an authority of it that none can be.
        let invalid = Failure::new(Reason::UpstreamProtocol, Reach::Client);
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        *request.uri_mut() =
            uri(target, &target.path_and_query, &target.authority).ok_or(invalid)?;
        *request.version_mut() = Version::HTTP_2;
        match self.body.length() {
            Length::Exact(length) => {
                request.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            Length::Empty => {
                request.headers_mut().remove(CONTENT_LENGTH);
            }
            Length::Chunked | Length::Close => {}
        }
        if let Some(protocol) = &target.upgrade {
            *request.method_mut() = Method::CONNECT;
            request
                .extensions_mut()
                .insert(Protocol::from(protocol.as_str()));
        }
        Ok(request)
    }

    /// Waits while the limits and the client allow it.
    async fn within<F: Future + Unpin>(&mut self, mut future: F) -> Result<F::Output, Failure> {
        poll_fn(|cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if self.body.is_read() && self.client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Failure::new(Reason::ClientGone, Reach::Client)));
            }
            let late = ready!(self.limits.poll(self.client.timer(), cx));
            Poll::Ready(Err(Failure::new(late, Reach::Unconnected)))
        })
        .await
    }

    /// Sends the body while it waits for the response's head.
    async fn exchange(
        &mut self,
        upstream: &mut Upstream,
    ) -> Result<(http::response::Parts, Length), Result<Cut, Reason>> {
        let mut is_sent = upstream.is_finished() || self.target.upgrade.is_some();
        // An upstream that closes its ears may have answered before.
        let mut is_deaf = false;
        poll_fn(|cx| {
            if !is_sent {
                match send(self.body, self.client, upstream, self.limits, cx) {
                    Poll::Ready(Ok(())) => {
                        is_sent = true;
                        self.limits.request_ended();
                    }
                    Poll::Ready(Err(Cut::Upstream(_))) => (is_sent, is_deaf) = (true, true),
                    Poll::Ready(Err(cut)) => return Poll::Ready(Err(Ok(cut))),
                    Poll::Pending => {}
                }
            }
            if !is_deaf && let Poll::Ready(Err(_)) = upstream.poll_flush(cx) {
                (is_sent, is_deaf) = (true, true);
            }
            if let Poll::Ready(head) = upstream.poll_head(cx) {
                self.limits.progress();
                return Poll::Ready(head.map_err(|broken| Ok(Cut::Upstream(broken))));
            }
            if self.body.is_read() && self.client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Err(Reason::ClientGone)));
            }
            let late = ready!(self.limits.poll(self.client.timer(), cx));
            Poll::Ready(Err(Err(late)))
        })
        .await
    }
}

/// Moves the request's body on as far as both sides allow; ready once its end was queued.
fn send(
    body: &mut RequestBody,
    client: &mut Downstream<'_>,
    upstream: &mut Upstream,
    limits: &mut Limits,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Cut>> {
    while !upstream.is_finished() {
        ready!(upstream.poll_ready(cx)).map_err(Cut::Upstream)?;
        let queued = match ready!(body.poll_piece(client, cx)) {
            Some(Ok(Piece::Data(data))) => {
                limits.progress();
                upstream.push(data, body.is_end())
            }
            Some(Ok(Piece::Trailers(trailers))) => upstream.finish(Some(trailers)),
            None => upstream.finish(None),
            Some(Err(broken)) => return Poll::Ready(Err(Cut::Client(broken))),
        };
        queued.map_err(Cut::Upstream)?;
    }
    Poll::Ready(Ok(()))
}

/// The rest of a request's body while its response passes already. Ready once there is nothing more to be done.
pub fn send_rest(
    body: &mut RequestBody,
    client: &mut Downstream<'_>,
    upstream: &mut Upstream,
    limits: &mut Limits,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    let sent = send(body, client, upstream, limits, cx);
    let flushed = upstream.poll_flush(cx);
    match sent {
        Poll::Ready(Ok(())) => flushed.map(|_| Ok(())),
        // The upstream has heard enough: the response goes on.
        Poll::Ready(Err(Cut::Upstream(_))) => Poll::Ready(Ok(())),
        Poll::Ready(Err(Cut::Client(broken))) => Poll::Ready(Err(broken)),
        Poll::Pending => Poll::Pending,
    }
}

/// Before the upstream's settings allow extended CONNECT (RFC 8441 §3) it must not be sent; only the first request of a
/// connection can come too early.
async fn allowed(place: &Connection) {
    let end = Instant::now() + SETTINGS;
    while !place.allows_connect() && Instant::now() < end {
        sleep(Duration::from_millis(2)).await;
    }
}

fn failure(upstream: &Upstream, broken: Broken, reused: bool) -> Failure {
    match broken {
        Broken::Refused => Failure::new(Reason::UpstreamRefused, Reach::Unprocessed),
        // With TLS 1.3 a server refuses our certificate after we have sent the request: it has not looked at it.
        Broken::Alert if !reused => Failure {
            outcome: Some(Outcome::ConnectFailed),
            ..Failure::new(Reason::UpstreamTls, Reach::Unconnected)
        },
        Broken::Protocol(_) => Failure::new(Reason::UpstreamProtocol, Reach::Sent),
        Broken::Reset => match upstream {
            // Half a head.
            Upstream::Http1(_) => Failure::new(Reason::UpstreamProtocol, Reach::Sent),
            Upstream::Http2(_) => Failure::new(Reason::UpstreamReset, Reach::Sent),
        },
        Broken::Ended | Broken::Alert => {
            let reach = match (upstream.is_unsent(), reused) {
                (true, _) => Reach::Unprocessed,
                (false, true) => Reach::Stale,
                (false, false) => Reach::Sent,
            };
            Failure::new(Reason::UpstreamClosed, reach)
        }
    }
}
