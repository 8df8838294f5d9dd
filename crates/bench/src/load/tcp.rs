//! TCP clients: echo, bulk, greetings.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::CHUNK;

/// Bytes of an echo.
const ECHO: usize = 1024;
/// Bytes of a greeting: what a connection is tried with.
const GREETING: usize = 64;
/// Bytes of a bulk exchange.
const BULK: u64 = 1 << 20;

/// What an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 1 KiB there and back.
    Echo,
    /// 64 bytes there and back.
    Greeting,
    /// 1 MiB from the server.
    Download,
    /// 1 MiB to the server.
    Upload,
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    unit: Unit,
    buffer: Vec<u8>,
}

// === impl Client ===

impl Client {
    /// Connects.
    pub async fn open(address: SocketAddr, unit: Unit) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            unit,
            buffer: Vec::new(),
        })
    }

    /// One exchange.
    pub async fn exchange(&mut self) -> anyhow::Result<()> {
        match self.unit {
            Unit::Echo => self.echo(ECHO).await,
            Unit::Greeting => self.echo(GREETING).await,
            Unit::Download => self.bulk(0, BULK).await,
            Unit::Upload => self.bulk(BULK, 0).await,
        }
    }

    /// Says that there is no more, and waits for the other side to say the same.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.stream.shutdown().await?;
        let length = self.stream.read(&mut [0; 1]).await?;
        anyhow::ensure!(length == 0, "more than the answer");
        Ok(())
    }

    async fn echo(&mut self, length: usize) -> anyhow::Result<()> {
        self.buffer.resize(length, b'e');
        self.stream.write_all(&self.buffer).await?;
        self.buffer.fill(0);
        self.stream.read_exact(&mut self.buffer).await?;
        anyhow::ensure!(
            self.buffer.iter().all(|byte| *byte == b'e'),
            "another echo than the call"
        );
        Ok(())
    }

    async fn bulk(&mut self, mut give: u64, mut take: u64) -> anyhow::Result<()> {
        self.buffer.resize(CHUNK, 0);
        let order = (u128::from(give) << 64) | u128::from(take);
        self.stream.write_u128(order).await?;
        while give > 0 {
            let most = CHUNK.min(usize::try_from(give)?);
            self.stream.write_all(&self.buffer[..most]).await?;
            give -= most as u64;
        }
        while take > 0 {
            let most = CHUNK.min(usize::try_from(take)?);
            let length = self.stream.read(&mut self.buffer[..most]).await?;
            anyhow::ensure!(length > 0, "closed within the transfer");
            anyhow::ensure!(
                self.buffer[..length].iter().all(|byte| *byte == 7),
                "other bytes than the backend's"
            );
            take -= length as u64;
        }
        anyhow::ensure!(
            self.stream.read_u8().await? == b'!',
            "no end of the transfer"
        );
        Ok(())
    }
}
