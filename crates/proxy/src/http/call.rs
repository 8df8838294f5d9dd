//! Requests of the proxy's own to clusters: filters ask services by them, and logs and spans are sent.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h1::Length;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use prost::Message;
use tokio::time::timeout;

use super::body::{Broken, Piece};
use super::h1::Head;
use super::pool::{OpenError, Pool};
use super::upstream::Upstream;
use crate::access::milliseconds;
use crate::cluster::{ChoiceContext, Chosen, Cluster, Outcome, UpstreamHttp};
use crate::format::{Facts, Missing, Template};
use crate::listener::H2;
use crate::reason::Reason;
use crate::upstream::settled;
use crate::worker::{Worker, roll};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Marks requests of the proxy's own.
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Answers of services are small; a larger one is refused.
const LARGEST: usize = 1 << 20;
/// A call without a deadline of its own.
const LONGEST: Duration = Duration::from_secs(60);

/// A request to a cluster.
#[derive(Debug)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The authority.
    pub authority: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// It needs HTTP/2.
    pub is_grpc: bool,
    /// For all of it; a minute where there is none.
    pub timeout: Option<Duration>,
}

/// A whole response.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers, if there are any.
    pub trailers: HeaderMap,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No such cluster.
    #[error("no cluster {0:?}")]
    NoCluster(Arc<str>),
    /// No endpoint, no connection, or it broke off.
    #[error("{}", .0.row().details)]
    Failed(Reason),
    /// Time is up.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It is too large.
    #[error("the answer is larger than {LARGEST} bytes")]
    TooLarge,
    /// It answered an error.
    #[error("status {0}")]
    Http(StatusCode),
    /// It answered gRPC's error.
    #[error("gRPC status {0}: {1}")]
    Grpc(u32, String),
    /// It is not what was asked for.
    #[error("not the answer expected: {0}")]
    Answer(&'static str),
}

/// A gRPC service of a cluster (`envoy.config.core.v3.GrpcService`).
#[derive(Debug)]
pub struct GrpcService {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The authority.
    pub authority: String,
    /// For a whole call.
    pub timeout: Option<Duration>,
    /// Headers of every call.
    pub metadata: Vec<(HeaderName, Template)>,
}

// === impl GrpcService ===

impl GrpcService {
    /// The metadata of a call.
    pub fn metadata(&self, facts: &dyn Facts) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, template) in &self.metadata {
            if let Ok(value) = HeaderValue::try_from(template.format(facts, Missing::Empty)) {
                headers.append(name.clone(), value);
            }
        }
        headers
    }

    /// A unary call of a method, `/package.Service/Method`.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        worker: &Worker,
        method: &str,
        metadata: HeaderMap,
        question: &Q,
    ) -> Result<A, CallError> {
        let mut headers = metadata;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = self.timeout {
            let text = format!("{}m", timeout.as_millis().clamp(1, 99_999_999));
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(GRPC_TIMEOUT, value);
            }
        }
        let call = Call {
            method: Method::POST,
            path: method.to_owned(),
            authority: self.authority.clone(),
            headers,
            body: framed(question),
            is_grpc: true,
            timeout: self.timeout,
        };
        // Boxed: a request that asks nobody must not carry the size of one that does.
        answer(Box::pin(send(worker, &self.cluster, call)).await?)
    }
}

/// A message with gRPC's prefix: not compressed, its length.
fn framed<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(length.saturating_add(5));
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // It grows as it must, so encoding cannot fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// The message of a unary answer.
fn answer<A: Message + Default>(reply: Reply) -> Result<A, CallError> {
    if reply.status != StatusCode::OK {
        return Err(CallError::Http(reply.status));
    }
    let text = |name| {
        let value = reply.trailers.get(&name).or(reply.headers.get(&name))?;
        value.to_str().ok()
    };
    match text(GRPC_STATUS).and_then(|status| status.parse().ok()) {
        Some(0) => {}
        Some(status) => {
            let message = text(GRPC_MESSAGE).unwrap_or_default().to_owned();
            return Err(CallError::Grpc(status, message));
        }
        None => return Err(CallError::Answer("no grpc-status")),
    }
    let mut body = reply.body;
    if body.len() < 5 || body.get_u8() != 0 {
        return Err(CallError::Answer("no message, or a compressed one"));
    }
    let length = usize::try_from(body.get_u32()).unwrap_or(usize::MAX);
    if body.len() != length {
        return Err(CallError::Answer("not one message"));
    }
    A::decode(body).map_err(|_| CallError::Answer("not the message expected"))
}

/// Sends a request to a cluster and waits for all of its response.
pub async fn send(worker: &Worker, cluster: &Arc<str>, call: Call) -> Result<Reply, CallError> {
    let snapshot = worker.shared.snapshot.load();
    let found = snapshot.clusters.get(cluster).cloned();
    drop(snapshot);
    let found = found.ok_or_else(|| CallError::NoCluster(cluster.clone()))?;
    let limit = call.timeout.unwrap_or(LONGEST);
    let mut call = call;
    let yes = HeaderValue::from_static("true");
    call.headers.insert(INTERNAL, yes);
    if let Some(timeout) = call.timeout {
        let milliseconds = HeaderValue::from(milliseconds(timeout));
        call.headers.insert(EXPECTED_TIMEOUT, milliseconds);
    }
    let mut chosen = None;
    match timeout(limit, exchange(worker, &found, &call, &mut chosen)).await {
        Ok(Ok(reply)) => {
            found.stats.classes.count(reply.status);
            Ok(reply)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            found.stats.timeouts.increment();
            if let Some(chosen) = &chosen {
                chosen.report(Outcome::Timeout);
            }
            Err(CallError::Late(limit))
        }
    }
}

async fn exchange(
    worker: &Worker,
    cluster: &Arc<Cluster>,
    call: &Call,
    chosen: &mut Option<Chosen>,
) -> Result<Reply, CallError> {
    settled(cluster).await;
    let context = ChoiceContext::of_proxy(roll());
    let endpoint = cluster.choose(&context);
    let endpoint = endpoint.map_err(|none| CallError::Failed(none.into()))?;
    let chosen = chosen.insert(endpoint);
    cluster.stats.requests.increment();
    let pools = &chosen.endpoint.pools;
    let pool = pools.of(worker.index).cloned().unwrap_or_default();
    loop {
        let (mut upstream, reused) = begin(&pool, chosen, call).await?;
        match answered(&mut upstream, call).await {
            // It was closed while it rested: the next may live.
            Err(Broken::Ended | Broken::Refused) if reused => continue,
            Err(broken) => {
                chosen.report(Outcome::Reset);
                return Err(CallError::Failed(reason(broken)));
            }
            Ok(None) => return Err(CallError::TooLarge),
            Ok(Some(reply)) => {
                chosen.report(Outcome::Status(reply.status));
                if let Upstream::Http1(connection) = upstream {
                    pool.give_back(connection, chosen);
                }
                return Ok(reply);
            }
        }
    }
}

fn reason(broken: Broken) -> Reason {
    match broken {
        Broken::Protocol(_) => Reason::UpstreamProtocol,
        Broken::Ended | Broken::Reset | Broken::Refused | Broken::Alert => Reason::UpstreamClosed,
    }
}

/// A connection or stream with the request's head on it; `true` if the connection has served before.
async fn begin(
    pool: &Arc<Pool>,
    chosen: &mut Chosen,
    call: &Call,
) -> Result<(Upstream, bool), CallError> {
    let opened = |error: OpenError| match error {
        OpenError::Connect(error) => CallError::Failed(error.reason()),
        OpenError::Handshake(_) => CallError::Failed(Reason::ConnectFailed),
    };
    let overflow = |_| CallError::Failed(Reason::UpstreamOverflow);
    let settings = match chosen.cluster.config.http {
        UpstreamHttp::Http2(settings) => Some(settings),
        UpstreamHttp::Downstream(settings) => call.is_grpc.then_some(settings),
        UpstreamHttp::Http1 => call.is_grpc.then(H2::default),
    };
    let Some(settings) = settings else {
        let (mut connection, reused) = match pool.take(&chosen.cluster) {
            Some(connection) => (connection, true),
            None => {
                let _waiting = chosen.pend().map_err(overflow)?;
                pool.take_or_open(chosen).await.map_err(opened)?
            }
        };
        chosen.begin().map_err(overflow)?;
        connection.begin(&Head {
            method: &call.method,
            target: &call.path,
            host: &call.authority,
            headers: &call.headers,
            // A service is told that there is none, as Envoy does.
            length: Length::Exact(u64::try_from(call.body.len()).unwrap_or(0)),
            upgrade: None,
        });
        return Ok((Upstream::Http1(connection), reused));
    };
    let (place, reused) = match pool.enter(&chosen.cluster, settings) {
        Some(place) => (place, true),
        None => {
            let _waiting = chosen.pend().map_err(overflow)?;
            let entering = pool.enter_or_open(chosen, settings);
            entering.await.map_err(opened)?
        }
    };
    chosen.begin().map_err(overflow)?;
    let request = head2(call, chosen.cluster.config.tls.is_some())?;
    match place.send(request, call.body.is_empty()).await {
        Ok(stream) => Ok((Upstream::Http2(Box::new(stream)), reused)),
        Err(_) => Err(CallError::Failed(Reason::UpstreamClosed)),
    }
}

fn head2(call: &Call, is_tls: bool) -> Result<Request<()>, CallError> {
    let uri = Uri::builder()
        .scheme(if is_tls { "https" } else { "http" })
        .authority(call.authority.as_str())
        .path_and_query(call.path.as_str())
        .build()
        .map_err(|_| CallError::Answer("path or authority of the call"))?;
    let mut request = Request::new(());
    *request.method_mut() = call.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = call.headers.clone();
    *request.uri_mut() = uri;
    if !call.is_grpc {
        let length = HeaderValue::from(call.body.len());
        request.headers_mut().insert(CONTENT_LENGTH, length);
    }
    Ok(request)
}

/// Sends the body and reads the response; `None` if it is too large.
async fn answered(upstream: &mut Upstream, call: &Call) -> Result<Option<Reply>, Broken> {
    if !call.body.is_empty() {
        poll_fn(|cx| upstream.poll_ready(cx)).await?;
        upstream.push(call.body.clone(), true)?;
    } else if !upstream.is_finished() {
        upstream.finish(None)?;
    }
    let (parts, _) = poll_fn(|cx| {
        // An upstream that closes its ears may have answered before.
        let _ = upstream.poll_flush(cx);
        upstream.poll_head(cx)
    })
    .await?;
    let mut body = BytesMut::new();
    let mut trailers = HeaderMap::new();
    loop {
        let piece = poll_fn(|cx| match upstream.poll_piece(cx) {
            Poll::Pending => {
                let _ = upstream.poll_flush(cx);
                Poll::Pending
            }
            ready => ready,
        });
        match piece.await {
            None => break,
            Some(Ok(Piece::Data(data))) => {
                if body.len().saturating_add(data.len()) > LARGEST {
                    return Ok(None);
                }
                body.extend_from_slice(&data);
            }
            Some(Ok(Piece::Trailers(map))) => trailers = map,
            Some(Err(broken)) => return Err(broken),
        }
    }
    Ok(Some(Reply {
        status: parts.status,
        headers: parts.headers,
        body: body.freeze(),
        trailers,
    }))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::StringValue;

    use super::*;

    fn reply(status: &str, body: Bytes, in_trailers: bool) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_STATUS, status.parse().unwrap());
        let (headers, trailers) = if in_trailers {
            (HeaderMap::new(), headers)
        } else {
            (headers, HeaderMap::new())
        };
        Reply {
            status: StatusCode::OK,
            headers,
            body,
            trailers,
        }
    }

    #[test]
    fn an_answer_is_one_message_and_status_zero() {
        let message = StringValue {
            value: "hello".into(),
        };
        let whole = framed(&message);
        let decoded: StringValue = answer(reply("0", whole.clone(), true)).unwrap();
        assert_eq!(decoded, message);
        let cases = [
            (reply("14", Bytes::new(), false), "gRPC status 14: "),
            (reply("x", whole.clone(), true), "no grpc-status"),
            (reply("0", Bytes::new(), true), "no message"),
            (reply("0", whole.slice(..7), true), "not one message"),
            (
                reply("0", Bytes::from_static(b"\x01\0\0\0\0"), true),
                "a compressed one",
            ),
            (
                reply("0", Bytes::from_static(b"\0\0\0\0\x02\x0a\x09"), true),
                "not the message expected",
            ),
        ];
        for (reply, expected) in cases {
            let error = answer::<StringValue>(reply).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
