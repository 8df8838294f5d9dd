//! Real clients and servers for the tests.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Body = BoxBody<Bytes, Infallible>;

/// An application: echoes head and body, sends trailers on `/trailers`, switches on `/ws`.
pub async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server
                    .serve_connection_with_upgrades(TokioIo::new(stream), service_fn(app))
                    .await;
            });
        }
    });
    address
}

async fn app(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/ws" {
        let switching = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(switching.await.unwrap());
            let mut buffer = [0u8; 64];
            while let Ok(length) = stream.read(&mut buffer).await {
                if length == 0 {
                    break;
                }
                stream.write_all(&buffer[..length]).await.unwrap();
            }
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        return Ok(response
            .header("sec-websocket-accept", "key")
            .body(Full::default().boxed())
            .unwrap());
    }
    let (parts, body) = request.into_parts();
    let mut text = format!(
        "{} {} {:?}\n",
        parts.method,
        parts.uri.path(),
        parts.version
    );
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    let received = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    text.push_str(&format!("body: {}\n", received.len()));
    if parts.uri.path() == "/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [
            Ok(Frame::data(Bytes::from(text))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed();
        return Ok(Response::builder()
            .header("trailer", "grpc-status")
            .body(body)
            .unwrap());
    }
    Ok(Response::new(Full::new(Bytes::from(text)).boxed()))
}

/// A server that echoes bytes, and says goodbye after the client's end.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                all.extend_from_slice(b" bye");
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    address
}

/// Sends bytes as they are and reads to the end.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A request over HTTP/1.1 that asks for the connection's end; the whole answer.
pub async fn get(address: SocketAddr, path: &str, more: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n{more}\r\n");
    raw(address, request.as_bytes()).await.unwrap()
}

/// A request over HTTP/2 with prior knowledge: status, body, trailers.
pub async fn get2(address: SocketAddr, path: &str) -> (u16, String, Option<HeaderMap>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://web.ns{path}")).header("te", "trailers");
    let response = sender
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        trailers,
    )
}
