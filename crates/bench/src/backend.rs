//! What is behind the inbound proxy: answers of fixed content, as cheap as can be.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Length of an HTTP reply's body, bytes: the pilot's.
pub const BODY: usize = 1024;
/// Length of a gRPC message, bytes, with its 5-byte prefix.
pub const MESSAGE: usize = 133;
/// Bytes per read and write of a bulk transfer.
pub const CHUNK: usize = 64 << 10;

/// Ports of the backend on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// HTTP/1.1.
    pub http1: u16,
    /// HTTP/2 and gRPC with prior knowledge.
    pub http2: u16,
    /// Sends back what comes.
    pub echo: u16,
    /// Reads a count of bytes to take and one to give (big-endian, 8 bytes each), does so, again.
    pub bulk: u16,
}

/// The body of every HTTP reply.
pub fn body() -> Bytes {
    (0u8..=255)
        .cycle()
        .take(BODY)
        .map(|n| b'a' + n % 26)
        .collect()
}

/// A gRPC message with its prefix: not compressed, length, opaque bytes.
pub fn message() -> Bytes {
    let length = u8::try_from(MESSAGE - 5).unwrap_or(0);
    [0, 0, 0, 0, length]
        .into_iter()
        .chain((0u8..length).map(|n| n ^ 0x55))
        .collect()
}

/// Starts all of them on this runtime.
pub async fn serve() -> anyhow::Result<Ports> {
    Ok(Ports {
        http1: listen(|stream| async { http1(stream).await }).await?,
        http2: listen(|stream| async { http2(stream).await }).await?,
        echo: listen(|stream| async { echo(stream).await }).await?,
        bulk: listen(|stream| async { bulk(stream).await }).await?,
    })
}

async fn listen<F, S>(serve: F) -> anyhow::Result<u16>
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            // How a connection ends is the client's to judge.
            tokio::spawn(serve(stream));
        }
    });
    Ok(port)
}

async fn http1(mut stream: TcpStream) -> anyhow::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\ncontent-length: {BODY}\r\nx-backend: bench\r\n\r\n"
    );
    let reply = [head.as_bytes(), &body()].concat();
    let mut received = BytesMut::with_capacity(4096);
    loop {
        while let Some(end) = end_of_head(&received) {
            let _ = received.split_to(end);
            stream.write_all(&reply).await?;
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

/// Where the head ends, if all of it is there.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

async fn http2(stream: TcpStream) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, reply) = request?;
        tokio::spawn(answer(request, reply));
    }
    Ok(())
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut reply: h2::server::SendResponse<Bytes>,
) -> anyhow::Result<()> {
    let (head, mut sent) = request.into_parts();
    while let Some(chunk) = sent.data().await {
        sent.flow_control().release_capacity(chunk?.len())?;
    }
    let is_grpc = head
        .headers
        .get("content-type")
        .is_some_and(|kind| kind == "application/grpc");
    let response = http::Response::builder().header("x-backend", "bench");
    if is_grpc {
        let response = response
            .header("content-type", "application/grpc")
            .body(())?;
        let mut body = reply.send_response(response, false)?;
        body.send_data(message(), false)?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        body.send_trailers(trailers)?;
    } else {
        let response = response
            .header("content-type", "text/plain; charset=utf-8")
            .header("cache-control", "no-store")
            .header("content-length", BODY)
            .body(())?;
        reply
            .send_response(response, false)?
            .send_data(body(), true)?;
    }
    Ok(())
}

async fn echo(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut bytes = vec![0; 4096];
    loop {
        let length = stream.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..length]).await?;
    }
}

async fn bulk(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut chunk = vec![7; CHUNK];
    loop {
        let Ok(mut take) = stream.read_u64().await else {
            return Ok(());
        };
        let mut give = stream.read_u64().await?;
        while take > 0 {
            let most = CHUNK.min(usize::try_from(take)?);
            let length = stream.read(&mut chunk[..most]).await?;
            anyhow::ensure!(length > 0, "the client left in the middle of a transfer");
            take -= length as u64;
        }
        while give > 0 {
            let most = CHUNK.min(usize::try_from(give)?);
            stream.write_all(&chunk[..most]).await?;
            give -= most as u64;
        }
        stream.write_u8(b'!').await?;
    }
}
