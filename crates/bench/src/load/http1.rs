//! HTTP/1.1 clients: one prepared request, an answer of known length.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{body, end_of_head};
use crate::mesh::HOST;

/// A kept connection.
pub struct Client {
    stream: TcpStream,
    request: Bytes,
    expected: Bytes,
    received: BytesMut,
}

// === impl Client ===

impl Client {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        // What a service's client sends: eight fields.
        let request = format!(
            "GET /api/v1/items/42?view=full HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: bench/1.0 (linux)\r\naccept: application/json\r\n\
             accept-language: en\r\nx-tenant: blue\r\nx-trace: 4bf92f3577b34da6\r\ncookie: session=0123456789abcdef\r\ncache-control: no-cache\r\n\r\n"
        );
        Ok(Client {
            stream,
            request: request.into(),
            expected: body(),
            received: BytesMut::new(),
        })
    }

    /// A request and its answer.
    pub async fn exchange(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        let end = loop {
            if let Some(end) = end_of_head(&self.received) {
                break end;
            }
            anyhow::ensure!(
                self.stream.read_buf(&mut self.received).await? > 0,
                "closed before the answer"
            );
        };
        let head = std::str::from_utf8(&self.received[..end])?;
        anyhow::ensure!(
            head.starts_with("HTTP/1.1 200 "),
            "answered {:?}",
            head.lines().next()
        );
        let length = head
            .lines()
            .find_map(content_length)
            .context("no content-length")?;
        anyhow::ensure!(length == self.expected.len(), "content-length {length}");
        while self.received.len() < end + length {
            anyhow::ensure!(
                self.stream.read_buf(&mut self.received).await? > 0,
                "closed within the answer"
            );
        }
        anyhow::ensure!(
            self.received[end..] == self.expected[..],
            "another body than the backend's"
        );
        self.received.advance(end + length);
        Ok(())
    }
}

fn content_length(line: &str) -> Option<usize> {
    let (name, value) = line.split_once(':')?;
    name.eq_ignore_ascii_case("content-length")
        .then(|| value.trim().parse().ok())?
}
