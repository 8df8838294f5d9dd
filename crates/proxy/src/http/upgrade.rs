//! Switching protocols end to end: HTTP/1 upgrades and HTTP/2 extended CONNECT (RFC 8441), each to either.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::body::{Limits, ReplyBody, RequestBody};
use super::exchange::Exchange;
use super::headers::Target;
use super::router::{answer, head, http2_for, no_body, reason, report, send};
use super::server::HttpConnection;
use super::{pool::Lease, reply};
use crate::cluster::{Chosen, Outcome};
use crate::copy::{End, both};
use crate::listener::HttpManager;
use crate::reason::Reason;
use crate::route::Forward;

/// How long the upstream may take to answer where the route sets no timeout.
const ANSWER: Duration = Duration::from_secs(60);

/// A request to switch protocols.
pub struct Upgrade<'a> {
    /// Its connection.
    pub http: &'a Arc<HttpConnection>,
    /// Its head.
    pub parts: Parts,
    /// Empty, but for what comes after the switch.
    pub body: Incoming,
    /// Where it goes.
    pub target: Target,
    /// Its bookkeeping.
    pub exchange: Exchange,
}

/// Whether the route, or else the connection manager, allows a protocol.
pub fn is_allowed(protocol: &str, action: &Forward, manager: &HttpManager) -> bool {
    let of_route = action.upgrades.iter().find(|(name, _)| name == protocol);
    of_route.map_or_else(
        || manager.upgrades.iter().any(|name| name == protocol),
        |(_, allowed)| *allowed,
    )
}

/// Sends the request on and, if the upstream switches, lets bytes pass both ways.
pub async fn forward(
    upgrade: Upgrade<'_>,
    chosen: &Chosen,
    limit: Option<Duration>,
    is_grpc: bool,
) -> Response<ReplyBody> {
    let Upgrade {
        http,
        mut parts,
        body,
        target,
        exchange,
    } = upgrade;
    // RFC 8441 has no body before the switch, and an upgrade's body would be ambiguous.
    if parts.headers.contains_key(TRANSFER_ENCODING)
        || parts
            .headers
            .remove(CONTENT_LENGTH)
            .is_some_and(|v| v != "0")
    {
        return reply::refusal(&Reason::BadRequest.into(), is_grpc, exchange);
    }
    let Some(protocol) = target.upgrade.clone() else {
        return reply::refusal(&Reason::BadRequest.into(), is_grpc, exchange);
    };
    let downstream = parts.extensions.remove::<OnUpgrade>();
    drop(body);
    exchange.progress().finish();
    let to_http2 = http2_for(&chosen.cluster, http).is_some();
    let request = match prepare(parts, &target, &protocol, to_http2) {
        Ok(request) => request,
        Err(reason) => return reply::refusal(&reason.into(), is_grpc, exchange),
    };
    let sending = Box::pin(send(http, chosen, request));
    let answered = match timeout(limit.unwrap_or(ANSWER), sending).await {
        Ok(answered) => answered,
        Err(_) => {
            chosen.report(Outcome::Timeout);
            return reply::refusal(&Reason::Timeout.into(), is_grpc, exchange);
        }
    };
    match answered {
        Ok((response, lease)) => {
            chosen.report(Outcome::Status(response.status()));
            switch(
                http, response, lease, downstream, &protocol, to_http2, exchange,
            )
        }
        Err(error) => {
            report(chosen, &error);
            tracing::debug!(cluster = %chosen.cluster.config.name, %error, "no answer to an upgrade");
            reply::refusal(&reason(&error).into(), is_grpc, exchange)
        }
    }
}

fn prepare(
    mut parts: Parts,
    target: &Target,
    protocol: &str,
    to_http2: bool,
) -> Result<Request<RequestBody>, Reason> {
    parts.extensions.clear();
    if to_http2 {
        parts.method = Method::CONNECT;
        let mut request = head(parts, target, true)?;
        request.extensions_mut().insert(Protocol::from(protocol));
        return Ok(request.map(|()| RequestBody::Empty));
    }
    if parts.method == Method::CONNECT {
        parts.method = Method::GET; // From extended CONNECT back to an upgrade.
    }
    let mut request = head(parts, target, false)?;
    let value = HeaderValue::from_str(protocol).map_err(|_| Reason::BadRequest)?;
    request.headers_mut().insert(UPGRADE, value);
    request
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(request.map(|()| RequestBody::Empty))
}

/// The client's answer, and the task that carries the bytes if both have switched.
fn switch(
    http: &Arc<HttpConnection>,
    mut response: Response<Incoming>,
    lease: Option<Lease>,
    downstream: Option<OnUpgrade>,
    protocol: &str,
    from_http2: bool,
    mut exchange: Exchange,
) -> Response<ReplyBody> {
    let Some(manager) = http.manager() else {
        return reply::refusal(&Reason::RouteNotFound.into(), false, exchange);
    };
    let wanted = if from_http2 {
        StatusCode::OK
    } else {
        StatusCode::SWITCHING_PROTOCOLS
    };
    let (true, Some(downstream)) = (response.status() == wanted, downstream) else {
        // Refused, or answered otherwise: an ordinary response, on a connection nobody may reuse.
        let response = answer(response, manager, &mut exchange);
        return response.map(|body| ReplyBody::upstream(body, None, exchange, Limits::default()));
    };
    let upstream = on(&mut response);
    let response = answer(response, manager, &mut exchange);
    let (mut head, body) = response.into_parts();
    drop(body);
    head.status = if http.is_http2 {
        StatusCode::OK
    } else {
        StatusCode::SWITCHING_PROTOCOLS
    };
    exchange.line.response_code = head.status.as_u16();
    if !http.is_http2
        && let Ok(value) = HeaderValue::from_str(protocol)
    {
        head.headers.insert(UPGRADE, value);
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // The head's bookkeeping ends with the head; the bytes that follow have their own line.
    let mut carried = Exchange::carried(http, &exchange);
    let idle = manager.stream_idle_timeout;
    tokio::spawn(async move {
        let _lease = lease;
        carry(downstream, upstream, idle, &mut carried).await;
    });
    Response::from_parts(head, no_body(exchange))
}

async fn carry(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    idle: Option<Duration>,
    exchange: &mut Exchange,
) {
    let started = Instant::now();
    let switched = timeout(ANSWER, async { tokio::try_join!(downstream, upstream) }).await;
    let (downstream, upstream) = match switched {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a switch of protocols failed");
            return exchange.fail(Reason::UpstreamClosed);
        }
        Err(_) => return exchange.fail(Reason::Timeout),
    };
    let outcome = both(
        &mut TokioIo::new(downstream),
        &mut TokioIo::new(upstream),
        idle,
    )
    .await;
    exchange.sent(usize::try_from(outcome.backward).unwrap_or(usize::MAX));
    match outcome.end {
        End::Closed => exchange.complete(),
        End::First(_) => exchange.fail(Reason::ClientGone),
        End::Second(_) => exchange.fail(Reason::UpstreamClosed),
        End::Idle => exchange.fail(Reason::IdleTimeout),
    }
    tracing::debug!(forward = outcome.forward, backward = outcome.backward, lasted = ?started.elapsed(), "switched connection ended");
}
