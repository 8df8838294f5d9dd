//! An HTTP server for one handler: HTTP/1.1 and HTTP/2 (by ALPN over TLS, by its preface without).

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// A request's surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
}

/// Connections served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;

/// Longest wait for a client's TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Pause after a failed accept (out of file descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a port on all addresses, IPv6 and IPv4.
pub async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
    match TcpListener::bind(any).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(error).with_context(|| format!("port {port}"))
        }
        // No IPv6 on this machine.
        Err(_) => TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port))
            .await
            .with_context(|| format!("port {port}")),
    }
}

/// Answers requests on a listener until the listener's future is dropped.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    handler: H,
) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>, Origin) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let acceptor = tls.map(TlsAcceptor::from);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await?;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, handler) = (acceptor.clone(), handler.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, peer, acceptor, handler).await {
                tracing::debug!(%peer, "{error:#}");
            }
            drop(permit);
        });
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    handler: H,
) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>, Origin) -> F + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    stream.set_nodelay(true)?;
    let address = peer.ip().to_canonical();
    match tls {
        Some(acceptor) => {
            let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
            requests(
                stream,
                Origin {
                    address,
                    scheme: "https",
                },
                handler,
            )
            .await
        }
        None => {
            requests(
                stream,
                Origin {
                    address,
                    scheme: "http",
                },
                handler,
            )
            .await
        }
    }
}

async fn requests<S, H, F>(stream: S, origin: Origin, handler: H) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, Origin) -> F + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let head = request.method() == Method::HEAD;
        let response = handler(request, origin);
        async move { Ok::<_, Infallible>(finish(response.await, head)) }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// The length is stated on answers to HEAD too, where no body follows (RFC 9110 §8.6).
fn finish(response: Response<Full<Bytes>>, head: bool) -> Response<Full<Bytes>> {
    let (mut parts, body) = response.into_parts();
    let length = hyper::body::Body::size_hint(&body)
        .exact()
        .unwrap_or_default();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Response::from_parts(parts, if head { Full::default() } else { body })
}
