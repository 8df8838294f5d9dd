//! Sockets, TLS, HTTP: connections in, answers out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::{self, User};
use crate::pki::Pki;
use crate::request::{self, Answer, Call, Query};
use crate::status::Failure;
use crate::{Server, StartError, rest};

/// Largest body taken, as in Kubernetes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A request that is neither watch, log nor upgrade must be answered within this, as in Kubernetes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Open connections over all listeners: kube clients hold one per watch.
const CONNECTIONS: usize = 4096;

/// TLS for the server: its leaf, and client certificates of the cluster CA, which are optional.
pub fn tls(
    pki: &Pki,
    names: &[String],
    addresses: &[std::net::IpAddr],
) -> Result<TlsAcceptor, StartError> {
    let fail = |e: String| StartError::Pki(e);
    let (chain, key) = pki.server_leaf(names, addresses)?;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(pki.ca_der().clone())
        .map_err(|e| fail(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .allow_unauthenticated()
    .build()
    .map_err(|e| fail(e.to_string()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| fail(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts on one listener until cancelled.
pub async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    server: Arc<Server>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of file descriptors and the like: the socket stays readable, so wait instead of spinning.
                tracing::warn!(error = %e, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, server, stop) = (tls.clone(), server.clone(), stop.clone());
        connections.spawn(async move {
            let _slot = slot;
            let _ = stream.set_nodelay(true);
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(stream, tls, server) => {}
            }
        });
    }
    connections.shutdown().await;
}

async fn connection(stream: tokio::net::TcpStream, tls: TlsAcceptor, server: Arc<Server>) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await else {
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let peer = Arc::new(
        certificates
            .and_then(|c| c.first())
            .and_then(auth::from_certificate),
    );
    let service = service_fn(move |request| {
        let (server, peer) = (server.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(server, peer, request).await) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(75));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .keep_alive_interval(Duration::from_secs(30));
    let _ = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    server: Arc<Server>,
    peer: Arc<Option<User>>,
    request: Request<Incoming>,
) -> Answer {
    let started = std::time::Instant::now();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut answer = match respond(server, peer.as_ref().as_ref(), request).await {
        Ok(answer) => answer,
        Err(failure) => request::failure(&failure),
    };
    if method == http::Method::HEAD {
        // HTTP/2 resets a stream whose answer to HEAD has a body.
        *answer.body_mut() = request::empty();
    }
    let headers = answer.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-cache, private"),
    );
    if let Ok(id) = header::HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        headers.insert("audit-id", id);
    }
    tracing::debug!(%method, %uri, status = answer.status().as_u16(), micros = started.elapsed().as_micros(), "request");
    answer
}

async fn respond(
    server: Arc<Server>,
    peer: Option<&User>,
    mut request: Request<Incoming>,
) -> Result<Answer, Failure> {
    let public = matches!(
        request.uri().path().split('/').nth(1),
        Some("healthz" | "livez" | "readyz" | "version")
    );
    let user = match auth::authenticate(&server, request.headers(), peer) {
        Ok(user) => user,
        // Probes and version are open to the anonymous, as in a cluster with the default roles.
        Err(_) if public => User {
            name: "system:anonymous".to_owned(),
            ..User::default()
        },
        Err(failure) => return Err(failure),
    };
    let upgrade = request
        .headers()
        .contains_key(header::UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let body = read_body(body).await?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let streams = upgrade.is_some()
        || query.flag("watch")
        || query.flag("follow")
        || parts.uri.path().contains("/watch/")
        || parts.uri.path().contains("/proxy");
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        query,
        headers: parts.headers,
        user,
        body,
        upgrade,
    };
    let work = rest::dispatch(server, call);
    if streams {
        return work.await;
    }
    tokio::time::timeout(REQUEST_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                504,
                "Timeout",
                "Timeout: request did not complete within the allotted timeout",
            ))
        })
}

async fn read_body(body: Incoming) -> Result<Bytes, Failure> {
    let read =
        tokio::time::timeout(REQUEST_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await;
    match read {
        Err(_) => Err(Failure::new(
            408,
            "Timeout",
            "the request body did not arrive in time",
        )),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE.as_u16(),
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {BODY_LIMIT}"),
        )),
        Ok(Err(e)) => Err(Failure::bad_request(format!(
            "reading the request body: {e}"
        ))),
    }
}
