//! HTTP/2 and gRPC clients over shared connections.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use crate::backend::{body, message};
use crate::mesh::HOST;

/// One caller on a connection.
pub struct Client {
    connection: SendRequest<Bytes>,
    request: Request<()>,
    /// The message, of a gRPC call.
    message: Option<Bytes>,
    expected: Bytes,
}

/// Connects with prior knowledge.
pub async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (send, connection) = h2::client::handshake(stream).await?;
    // Ends with the last sender; what goes wrong shows in the exchanges.
    tokio::spawn(connection);
    Ok(send)
}

// === impl Client ===

impl Client {
    /// A caller that makes unary gRPC calls, or GETs.
    pub fn new(connection: SendRequest<Bytes>, grpc: bool) -> anyhow::Result<Client> {
        let path = if grpc {
            "/shop.Items/Find"
        } else {
            "/api/v1/items/42?view=full"
        };
        let request = Request::builder()
            .uri(format!("http://{HOST}{path}"))
            .header("user-agent", "bench/1.0 (linux)")
            .header("x-tenant", "blue")
            .header("x-trace", "4bf92f3577b34da6");
        let request = if grpc {
            request
                .method("POST")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
        } else {
            request
                .header("accept", "application/json")
                .header("accept-language", "en")
                .header("cookie", "session=0123456789abcdef")
                .header("cache-control", "no-cache")
        };
        Ok(Client {
            connection,
            request: request.body(())?,
            message: grpc.then(message),
            expected: if grpc { message() } else { body() },
        })
    }

    /// A request and its answer, trailers included.
    pub async fn exchange(&mut self) -> anyhow::Result<()> {
        let mut ready = self.connection.clone().ready().await?;
        let (answer, mut sending) =
            ready.send_request(self.request.clone(), self.message.is_none())?;
        if let Some(message) = &self.message {
            sending.send_data(message.clone(), true)?;
        }
        let (head, mut received) = answer.await?.into_parts();
        anyhow::ensure!(head.status == 200, "answered {}", head.status);
        let mut all = Vec::with_capacity(self.expected.len());
        while let Some(chunk) = received.data().await {
            let chunk = chunk?;
            received.flow_control().release_capacity(chunk.len())?;
            all.extend_from_slice(&chunk);
        }
        let trailers = received.trailers().await?;
        if self.message.is_some() {
            let status = trailers
                .as_ref()
                .or(Some(&head.headers))
                .and_then(grpc_status);
            anyhow::ensure!(status == Some("0"), "grpc-status {status:?}");
        }
        anyhow::ensure!(all == self.expected, "another body than the backend's");
        Ok(())
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status")?.to_str().ok()
}
