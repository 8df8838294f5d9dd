//! The kubelet's probes, answered in the application's place: it cannot speak mTLS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Type};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::settings::Probe;

/// Ports of the probes; always open, so that a wrong probe is answered rather than refused.
pub const PORTS: [u16; 3] = [15901, 15902, 15903];
/// Port of the TCP check.
pub const HEALTHCHECK: u16 = 15904;
/// Its path …
const HEALTHCHECK_PATH: &str = "/osm-healthcheck";
/// … and the header that names the port.
const ORIGINAL_PORT: &str = "original-tcp-port";
/// The kubelet reads 10 KiB of a probe's answer; the application may send as much.
const BODY: usize = 10 << 10;
/// Probes at a time and port.
const AT_ONCE: usize = 64;
/// A connection that asks nothing is closed after this.
const IDLE: Duration = Duration::from_secs(60);

/// Opens the probes' ports and serves them for as long as the runtime lives.
pub fn serve(probes: Vec<Probe>) -> anyhow::Result<()> {
    let mut by_port: BTreeMap<u16, Vec<Probe>> =
        PORTS.iter().map(|port| (*port, Vec::new())).collect();
    for probe in probes {
        by_port.entry(probe.port).or_default().push(probe);
    }
    for (port, probes) in by_port {
        let listener = bind(port)?;
        tokio::spawn(accept(listener, Arc::new(probes)));
    }
    tokio::spawn(accept(bind(HEALTHCHECK)?, Arc::default()));
    Ok(())
}

fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let both = || -> std::io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    };
    let v4 = || -> std::io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        Ok(socket)
    };
    // A node without IPv6 has no `::` to listen on.
    let socket = both()
        .or_else(|_| v4())
        .with_context(|| format!("probe port {port}"))?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept(listener: TcpListener, probes: Arc<Vec<Probe>>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let probes = probes.clone();
                tokio::spawn(async move {
                    let _place = place;
                    let _ = timeout(IDLE, connection(stream, probes)).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(mut stream: TcpStream, probes: Arc<Vec<Probe>>) {
    // TLS goes through to the application: the kubelet does not verify, and only the application has the key.
    if let Some(https) = probes
        .iter()
        .find(|probe| probe.scheme.eq_ignore_ascii_case("https"))
    {
        let mut first = [0u8; 1];
        if matches!(stream.peek(&mut first).await, Ok(1)) && first == [0x16] {
            if let Ok(mut target) =
                TcpStream::connect((Ipv4Addr::LOCALHOST, https.target_port)).await
            {
                let _ = copy_bidirectional(&mut stream, &mut target).await;
            }
            return;
        }
    }
    let service = service_fn(move |request| {
        let probes = probes.clone();
        async move { Ok::<_, Infallible>(answer(request, &probes).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, probes: &[Probe]) -> Response<Full<Bytes>> {
    if request.uri().path() == HEALTHCHECK_PATH {
        return check(&request).await;
    }
    let asked = request.uri().path();
    let found = probes
        .iter()
        .find(|probe| probe.scheme.eq_ignore_ascii_case("http") && probe.path == asked);
    let Some(probe) = found else {
        return text(StatusCode::NOT_FOUND, "no such probe");
    };
    if probe.target_port == 0 {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the probe's named port is unknown",
        );
    }
    let limit = Duration::from_secs(probe.timeout_seconds.max(1));
    match timeout(limit, forward(request, probe)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("probe: {error:#}"),
        ),
        Err(_) => text(
            StatusCode::GATEWAY_TIMEOUT,
            "the application did not answer in time",
        ),
    }
}

async fn forward(
    request: Request<Incoming>,
    probe: &Probe,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, probe.target_port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (mut parts, _) = request.into_parts();
    let path = if probe.target_path.starts_with('/') {
        probe.target_path.clone()
    } else {
        format!("/{}", probe.target_path)
    };
    parts.uri = path.parse::<Uri>().context("targetPath")?;
    parts.headers.remove(http::header::CONNECTION);
    parts
        .headers
        .entry(http::header::HOST)
        .or_insert(HeaderValue::from_static("localhost"));
    let response = sender
        .send_request(Request::from_parts(parts, Full::new(Bytes::new())))
        .await?;
    let (mut parts, body) = response.into_parts();
    // What is beyond the kubelet's interest is cut, not waited for.
    let body = Limited::new(body, BODY)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    connection.abort();
    for name in [
        http::header::TRANSFER_ENCODING,
        http::header::CONTENT_LENGTH,
        http::header::CONNECTION,
    ] {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Full::new(body)))
}

/// The TCP check: whether something listens on the application's port.
async fn check(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let header = request
        .headers()
        .get(ORIGINAL_PORT)
        .and_then(|value| value.to_str().ok());
    let Some(port) = header
        .and_then(|value| value.trim().parse::<u16>().ok())
        .filter(|port| *port > 0)
    else {
        return text(
            StatusCode::BAD_REQUEST,
            "header Original-Tcp-Port must name a port",
        );
    };
    match timeout(
        Duration::from_secs(5),
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)),
    )
    .await
    {
        Ok(Ok(_)) => text(StatusCode::OK, "the port accepts connections"),
        _ => text(StatusCode::NOT_FOUND, "the port accepts no connections"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response
}
