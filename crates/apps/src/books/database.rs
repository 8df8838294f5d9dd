//! `osm-apps database`: the part of MySQL in the demo. Like MySQL it speaks first, so no sidecar may wait for the client's
//! first bytes; unlike it, it understands two lines: `RESTOCK n` and `TOTAL`, each answered with `TOTAL n`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::tcp::each;

/// `osm-apps database`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Port of the server
    #[arg(long, default_value_t = 3306)]
    port: u16,
}

/// First words of the server.
const GREETING: &str = "booksdemo ready";

/// The longest line either side reads.
const MAX_LINE: u64 = 256;

/// Longest wait for the whole of an exchange.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest silence of a client before it is let go.
const IDLE: Duration = Duration::from_secs(60);

/// Serves until the process ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let books = Arc::new(AtomicU64::new(0));
    each(options.port, "database", move |stream| {
        let books = books.clone();
        async move { session(stream, &books).await }
    })
    .await
}

/// Adds books at the database; gives how many there are then.
pub async fn restock(address: &str, books: u64) -> anyhow::Result<u64> {
    let work = async {
        let stream = TcpStream::connect(address).await?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        // It speaks first, and nothing is said before it has.
        let greeting = line(&mut reader).await?;
        ensure!(
            greeting.as_deref() == Some(GREETING),
            "it says {greeting:?}, not {GREETING:?}"
        );
        writer
            .write_all(format!("RESTOCK {books}\n").as_bytes())
            .await?;
        let said = line(&mut reader).await?.unwrap_or_default();
        match said.strip_prefix("TOTAL ").and_then(|n| n.parse().ok()) {
            Some(total) => Ok(total),
            None => bail!("it says {said:?}"),
        }
    };
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer after {} s", PATIENCE.as_secs())))
        .with_context(|| format!("database {address}"))
}

async fn session(stream: TcpStream, books: &AtomicU64) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    writer.write_all(format!("{GREETING}\n").as_bytes()).await?;
    while let Some(line) = tokio::time::timeout(IDLE, line(&mut reader)).await?? {
        let answer = answer(&line, books);
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

fn answer(line: &str, books: &AtomicU64) -> String {
    let (word, number) = line.split_once(' ').unwrap_or((line, ""));
    match (word, number.parse::<u32>()) {
        // A sum of 32-bit numbers does not overflow in a demo's life.
        ("RESTOCK", Ok(more)) => {
            let before = books.fetch_add(more.into(), Ordering::Relaxed);
            format!("TOTAL {}", before.saturating_add(more.into()))
        }
        ("TOTAL", _) if number.is_empty() => format!("TOTAL {}", books.load(Ordering::Relaxed)),
        _ => "ERROR expected RESTOCK n or TOTAL".to_owned(),
    }
}

/// The next line without its end; none when the other side has said all.
async fn line(reader: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    let read = reader.take(MAX_LINE).read_line(&mut text).await?;
    Ok((read > 0).then(|| text.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_counts_and_refuses_what_it_does_not_know() {
        let books = AtomicU64::new(0);
        for (line, said) in [
            ("TOTAL", "TOTAL 0"),
            ("RESTOCK 2", "TOTAL 2"),
            ("RESTOCK 1", "TOTAL 3"),
            ("RESTOCK -1", "ERROR expected RESTOCK n or TOTAL"),
            ("RESTOCK", "ERROR expected RESTOCK n or TOTAL"),
            ("SELECT 1", "ERROR expected RESTOCK n or TOTAL"),
            ("TOTAL", "TOTAL 3"),
        ] {
            assert_eq!(answer(line, &books), said, "{line}");
        }
    }
}
