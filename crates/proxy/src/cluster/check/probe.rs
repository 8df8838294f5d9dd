//! One check over the network. Clients here are hyper's: checks are few, and off the data path.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lb::health::Outcome;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::payload::Payload;
use super::{GrpcProbe, HealthCheck, HttpProbe, Probe};
use crate::cluster::{Cluster, Endpoint, EndpointConfig};
use crate::net::Stream;
use crate::tls::Speaks;
use crate::upstream::open;

/// An answer longer than this is no health check's.
const ANSWER: usize = 64 << 10;
/// What checks call themselves; applications tell them from requests by it.
const AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A connection that may serve the next check.
pub(super) enum Connection {
    /// For payloads.
    Tcp(Stream),
    /// HTTP/1.1.
    Http1(http1::SendRequest<Full<Bytes>>, Driver),
    /// HTTP/2.
    Http2(http2::SendRequest<Full<Bytes>>, Driver),
}

/// Where a check goes.
struct Target<'a> {
    cluster: &'a Cluster,
    endpoint: &'a EndpointConfig,
    address: SocketAddr,
}

/// The task that drives a connection; it ends with this.
pub(super) struct Driver(JoinHandle<()>);

/// Field 1 of `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// Field 1 of `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks once; yields the connection if it may serve again.
pub(super) async fn probe(
    cluster: &Cluster,
    endpoint: &Endpoint,
    check: &HealthCheck,
    kept: Option<Connection>,
) -> (Outcome, Option<Connection>) {
    let target = &endpoint.config.check;
    let address = SocketAddr::new(
        target.address.unwrap_or(endpoint.config.address.ip()),
        target
            .port
            .or(check.port)
            .unwrap_or(endpoint.config.address.port()),
    );
    let to = Target {
        cluster,
        endpoint: &endpoint.config,
        address,
    };
    let authority = |own: &str| match (own, target.hostname.as_str()) {
        (_, named) if !named.is_empty() => named.to_owned(),
        ("", _) => cluster.config.name.to_string(),
        (own, _) => own.to_owned(),
    };
    let asked = match &check.probe {
        Probe::Tcp(payload) => say(&to, payload, kept).await,
        Probe::Http(http) => get(&to, http, &authority(&http.host), kept).await,
        Probe::Grpc(grpc) => ask(&to, grpc, &authority(&grpc.authority), kept).await,
    };
    // Whatever broke, it is the network's: nothing was answered.
    asked.unwrap_or((Outcome::Network, None))
}

type Asked = Option<(Outcome, Option<Connection>)>;

async fn say(to: &Target<'_>, payload: &Payload, kept: Option<Connection>) -> Asked {
    let mut stream = match kept {
        Some(Connection::Tcp(stream)) => stream,
        _ => open(to.cluster, to.endpoint, to.address, Speaks::Anything)
            .await
            .ok()?,
    };
    stream.write_all(&payload.send).await.ok()?;
    stream.flush().await.ok()?;
    let mut received = BytesMut::new();
    while !payload.is_answered(&received) {
        let read = stream.read_buf(&mut received).await.ok()?;
        if read == 0 || received.len() > ANSWER {
            return None;
        }
    }
    // A mere connection has proved itself; the next check wants another.
    let keep = !payload.receive.is_empty();
    Some((Outcome::Passed, keep.then_some(Connection::Tcp(stream))))
}

async fn get(
    to: &Target<'_>,
    probe: &HttpProbe,
    authority: &str,
    kept: Option<Connection>,
) -> Asked {
    let mut request = Request::new(Full::default());
    *request.method_mut() = probe.method.clone();
    request.headers_mut().insert(USER_AGENT, AGENT);
    for (name, value) in &probe.headers {
        match value {
            Some(value) => {
                request.headers_mut().insert(name.clone(), value.clone());
            }
            None => {
                request.headers_mut().remove(name);
            }
        }
    }
    let connection = connect(to, probe.http2, kept).await?;
    let (response, connection) = send(connection, request, &probe.path, authority).await?;
    let status = response.status().as_u16();
    let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(a, b)| (*a..*b).contains(&status));
    let outcome = if within(&probe.expected) {
        Outcome::Passed
    } else if within(&probe.retriable) {
        Outcome::Retriable
    } else {
        Outcome::Refused
    };
    let body = Limited::new(response.into_body(), ANSWER).collect().await;
    Some((outcome, body.is_ok().then_some(connection)))
}

async fn ask(
    to: &Target<'_>,
    probe: &GrpcProbe,
    authority: &str,
    kept: Option<Connection>,
) -> Asked {
    let message = HealthRequest {
        service: probe.service.clone(),
    };
    let mut frame = BytesMut::new();
    frame.put_u8(0); // Not compressed.
    frame.put_u32(u32::try_from(message.encoded_len()).ok()?);
    message.encode(&mut frame).ok()?;
    let mut request = Request::new(Full::new(frame.freeze()));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    for (name, value) in &probe.metadata {
        headers.append(name.clone(), value.clone());
    }
    let connection = connect(to, true, kept).await?;
    let path = "/grpc.health.v1.Health/Check";
    let (response, connection) = send(connection, request, path, authority).await?;
    if response.status() != http::StatusCode::OK {
        return Some((Outcome::Refused, Some(connection)));
    }
    let early = response.headers().get(GRPC_STATUS).cloned();
    let body = Limited::new(response.into_body(), ANSWER)
        .collect()
        .await
        .ok()?;
    let late = body
        .trailers()
        .and_then(|trailers| trailers.get(GRPC_STATUS))
        .cloned();
    let is_ok = late.or(early).is_some_and(|status| status == "0");
    let bytes = body.to_bytes();
    let answer = bytes
        .get(5..)
        .and_then(|bytes| HealthResponse::decode(bytes).ok());
    let is_serving = is_ok && answer.is_some_and(|answer| answer.status == 1);
    let outcome = if is_serving {
        Outcome::Passed
    } else {
        Outcome::Refused
    };
    Some((outcome, Some(connection)))
}

/// The connection that was kept if it is alive, or a new one.
async fn connect(to: &Target<'_>, http2: bool, kept: Option<Connection>) -> Option<Connection> {
    match kept {
        Some(Connection::Http1(sender, driver)) if !sender.is_closed() => {
            return Some(Connection::Http1(sender, driver));
        }
        Some(Connection::Http2(sender, driver)) if !sender.is_closed() => {
            return Some(Connection::Http2(sender, driver));
        }
        _ => {}
    }
    let speaks = if http2 { Speaks::Http2 } else { Speaks::Http1 };
    let opened = open(to.cluster, to.endpoint, to.address, speaks).await;
    let io = TokioIo::new(opened.ok()?);
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (sender, driving) = builder.timer(TokioTimer::new()).handshake(io).await.ok()?;
        let driver = tokio::spawn(async move {
            let _ = driving.await;
        });
        return Some(Connection::Http2(sender, Driver(driver)));
    }
    let (sender, driving) = http1::handshake(io).await.ok()?;
    let driver = tokio::spawn(async move {
        let _ = driving.await;
    });
    Some(Connection::Http1(sender, Driver(driver)))
}

async fn send(
    mut connection: Connection,
    mut request: Request<Full<Bytes>>,
    path: &str,
    authority: &str,
) -> Option<(Response<Incoming>, Connection)> {
    let response = match &mut connection {
        Connection::Http1(sender, _) => {
            *request.uri_mut() = path.parse().ok()?;
            let host = HeaderValue::from_str(authority).ok()?;
            request.headers_mut().insert(HOST, host);
            sender.ready().await.ok()?;
            sender.send_request(request).await.ok()?
        }
        Connection::Http2(sender, _) => {
            *request.version_mut() = Version::HTTP_2;
            let uri = Uri::builder().scheme("http").authority(authority);
            *request.uri_mut() = uri.path_and_query(path).build().ok()?;
            sender.ready().await.ok()?;
            sender.send_request(request).await.ok()?
        }
        Connection::Tcp(_) => return None,
    };
    Some((response, connection))
}
