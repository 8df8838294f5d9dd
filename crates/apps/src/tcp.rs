//! Servers of plain TCP: one that answers lines, one that speaks first.

use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::http::listen;

/// `osm-apps tcp-echo`.
#[derive(Args, Clone, Debug)]
pub struct EchoOptions {
    /// Port of the server
    #[arg(long, default_value_t = 9000)]
    pub port: u16,
    /// Written before each line; the default is that of upstream's demo server
    #[arg(long, default_value = PREFIX)]
    pub prefix: String,
}

/// `osm-apps banner`.
#[derive(Args, Clone, Debug)]
pub struct BannerOptions {
    /// Port of the server
    #[arg(long, default_value_t = 3306)]
    pub port: u16,
}

/// What the echo writes before each line, as upstream's demo server does.
pub const PREFIX: &str = "echo response: ";

/// The longest line that the echo reads.
const MAX_LINE: u64 = 64 * 1024;

/// The first words of the server that speaks first.
const BANNER: &[u8] = b"220 banner ready\r\n";

/// Answers every line with a prefix and the line.
pub async fn echo(options: EchoOptions) -> anyhow::Result<()> {
    let prefix: std::sync::Arc<str> = options.prefix.into();
    each(options.port, "tcp-echo", move |stream| {
        let prefix = prefix.clone();
        async move {
            let (reader, mut writer) = stream.into_split();
            let mut reader = BufReader::new(reader);
            loop {
                let mut line = Vec::new();
                let limited = &mut tokio::io::AsyncReadExt::take(&mut reader, MAX_LINE);
                if limited.read_until(b'\n', &mut line).await? == 0 {
                    return Ok(());
                }
                writer
                    .write_all(&[prefix.as_bytes(), &line].concat())
                    .await?;
            }
        }
    })
    .await
}

/// Greets every client, then waits for it to hang up.
pub async fn banner(options: BannerOptions) -> anyhow::Result<()> {
    each(options.port, "banner", |mut stream| async move {
        stream.write_all(BANNER).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink())
            .await
            .map(drop)
    })
    .await
}

/// Serves every connection to a port until the listener fails.
pub async fn each<H, F>(port: u16, role: &'static str, handler: H) -> anyhow::Result<()>
where
    H: Fn(TcpStream) -> F,
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = listen(port).await?;
    println!("{role} on port {}", listener.local_addr()?.port());
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let work = handler(stream);
                tokio::spawn(async move {
                    if let Err(error) = work.await {
                        tracing::debug!(%peer, %error, role);
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, role, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
