//! Peers that cost next to nothing themselves, for tests that count what an exchange costs the proxy.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const REQUEST: &[u8] =
    b"GET /get?x=1 HTTP/1.1\r\nHost: web.ns\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n";
/// A gRPC message of 128 bytes with its prefix.
const MESSAGE: [u8; 133] = {
    let mut message = [7; 133];
    (message[0], message[1], message[2], message[3], message[4]) = (0, 0, 0, 0, 128);
    message
};

/// A server of HTTP/1.1 that answers every read, and allocates for connections only.
pub async fn http1() -> SocketAddr {
    serve(async |mut stream| {
        let mut buffer = [0u8; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            stream.write_all(ANSWER).await.unwrap();
        }
    })
    .await
}

/// A server of unary gRPC calls: head, message and trailers leave in one write.
pub async fn grpc() -> SocketAddr {
    serve(async |stream| {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                let head = Response::builder().header("content-type", "application/grpc");
                let mut stream = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                stream
                    .send_data(Bytes::from_static(&MESSAGE), false)
                    .unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                stream.send_trailers(trailers).unwrap();
            });
        }
    })
    .await
}

async fn serve(each: impl AsyncFn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    // A thread of its own: what is served needs not be Send.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        let server = server.into_std().unwrap();
        local.block_on(&runtime, async move {
            let server = TcpListener::from_std(server).unwrap();
            while let Ok((stream, _)) = server.accept().await {
                let _ = stream.set_nodelay(true);
                let each = each.clone();
                tokio::task::spawn_local(async move { each(stream).await });
            }
        });
    });
    address
}

/// A client of one connection.
pub enum Caller {
    Http1(TcpStream),
    Grpc(SendRequest<Bytes>),
}

impl Caller {
    /// Connects for requests of HTTP/1.1.
    pub async fn http1(address: SocketAddr) -> Caller {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Caller::Http1(stream)
    }

    /// Connects for unary gRPC calls.
    pub async fn grpc(address: SocketAddr) -> Caller {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Caller::Grpc(sender)
    }

    /// One exchange.
    pub async fn call(&mut self) {
        match self {
            Caller::Http1(stream) => {
                stream.write_all(REQUEST).await.unwrap();
                let mut buffer = [0; 4096];
                let mut length = 0;
                while !buffer[..length].ends_with(b"hello world\n") {
                    let read = stream.read(&mut buffer[length..]).await.unwrap();
                    assert_ne!(read, 0, "{}", String::from_utf8_lossy(&buffer[..length]));
                    length += read;
                }
            }
            Caller::Grpc(sender) => {
                let request = Request::post("http://web.ns/shop.Items/Find")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .header("user-agent", "test");
                let mut ready = sender.clone().ready().await.unwrap();
                let (answer, mut sending) = ready
                    .send_request(request.body(()).unwrap(), false)
                    .unwrap();
                sending
                    .send_data(Bytes::from_static(&MESSAGE), true)
                    .unwrap();
                let mut body = answer.await.unwrap().into_body();
                let mut length = 0;
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    length += data.len();
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                assert_eq!(length, MESSAGE.len());
                let trailers = body.trailers().await.unwrap().unwrap();
                assert_eq!(trailers["grpc-status"], "0");
            }
        }
    }
}
