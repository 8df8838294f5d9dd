//! The load generator: a fixed number of exchanges at a fixed rate, every answer checked.

mod http1;
mod http2;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Exchanges that may be in flight at once: enough that no rate waits for it on a quiet machine.
const IN_FLIGHT: usize = 16;
/// HTTP/2 connections; the exchanges share them evenly.
const HTTP2_CONNECTIONS: usize = 4;
/// No answer for so long is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the exchanges are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// GET over kept-alive HTTP/1.1 connections.
    Http1,
    /// GET over HTTP/2 with prior knowledge.
    Http2,
    /// A unary call over HTTP/2 with prior knowledge.
    Grpc,
    /// 1 KiB there and back over kept TCP connections.
    Echo,
    /// 1 MiB from the server.
    Download,
    /// 1 MiB to the server.
    Upload,
    /// A new TCP connection, a few bytes there and back, closed.
    Connect,
    /// A new TCP connection, a GET over HTTP/1.1, closed.
    ConnectHttp1,
}

/// Clients of one proxy, ready to send.
pub struct Clients {
    traffic: Traffic,
    address: SocketAddr,
    all: Vec<Client>,
}

enum Client {
    Http1(http1::Client),
    Http2(http2::Client),
    Tcp(tcp::Client),
    Connect(SocketAddr),
    ConnectHttp1(SocketAddr),
}

/// When each exchange is due.
type Tokens = Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>;

// === impl Clients ===

impl Clients {
    /// Opens the connections.
    pub async fn open(traffic: Traffic, address: SocketAddr) -> anyhow::Result<Clients> {
        let mut all = Vec::with_capacity(IN_FLIGHT);
        let mut shared = Vec::new();
        if matches!(traffic, Traffic::Http2 | Traffic::Grpc) {
            for _ in 0..HTTP2_CONNECTIONS {
                shared.push(http2::connect(address).await?);
            }
        }
        for number in 0..IN_FLIGHT {
            all.push(match traffic {
                Traffic::Http1 => Client::Http1(http1::Client::open(address).await?),
                Traffic::Http2 | Traffic::Grpc => {
                    let connection = shared[number % HTTP2_CONNECTIONS].clone();
                    Client::Http2(http2::Client::new(connection, traffic == Traffic::Grpc)?)
                }
                Traffic::Echo => Client::Tcp(tcp::Client::open(address, tcp::Unit::Echo).await?),
                Traffic::Download => {
                    Client::Tcp(tcp::Client::open(address, tcp::Unit::Download).await?)
                }
                Traffic::Upload => {
                    Client::Tcp(tcp::Client::open(address, tcp::Unit::Upload).await?)
                }
                Traffic::Connect => Client::Connect(address),
                Traffic::ConnectHttp1 => Client::ConnectHttp1(address),
            });
        }
        Ok(Clients {
            traffic,
            address,
            all,
        })
    }

    /// So many exchanges, evenly spaced. Returns the time from when each was due until it was answered, in
    /// microseconds. After a failure the connections are new.
    pub async fn run(&mut self, count: u32, per_second: u32) -> anyhow::Result<Vec<f64>> {
        let (send, tokens) = mpsc::unbounded_channel();
        // A thread, because the runtime's clock knows milliseconds only.
        let pacing = std::thread::spawn(move || pace(&send, count, per_second));
        let tokens = Arc::new(Mutex::new(tokens));
        let mut running = JoinSet::new();
        for client in self.all.drain(..) {
            running.spawn(exchanges(client, tokens.clone()));
        }
        let mut latencies = Vec::new();
        let mut failure = None;
        while let Some(ended) = running.join_next().await {
            match ended? {
                Ok((client, mut times)) => {
                    self.all.push(client);
                    latencies.append(&mut times);
                }
                Err(error) => failure = Some(error),
            }
        }
        drop(tokens);
        pacing
            .join()
            .map_err(|_| anyhow::anyhow!("the pacing thread panicked"))?;
        if let Some(failure) = failure {
            *self = Clients::open(self.traffic, self.address).await?;
            return Err(failure);
        }
        anyhow::ensure!(
            latencies.len() == count as usize,
            "{} of {count} exchanges",
            latencies.len()
        );
        Ok(latencies)
    }
}

fn pace(send: &mpsc::UnboundedSender<Instant>, count: u32, per_second: u32) {
    let start = Instant::now();
    for number in 0..count {
        let due = start + Duration::from_secs_f64(f64::from(number) / f64::from(per_second));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if send.send(due).is_err() {
            return; // All clients failed.
        }
    }
}

/// One client's share: the lock is fair, so that the clients take turns.
async fn exchanges(mut client: Client, tokens: Tokens) -> anyhow::Result<(Client, Vec<f64>)> {
    let mut latencies = Vec::new();
    loop {
        let token = tokens.lock().await.recv().await;
        let Some(due) = token else {
            return Ok((client, latencies));
        };
        timeout(PATIENCE, client.exchange())
            .await
            .context("no answer in time")??;
        latencies.push(due.elapsed().as_secs_f64() * 1e6);
    }
}

// === impl Client ===

impl Client {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        match self {
            Client::Http1(client) => client.exchange().await,
            Client::Http2(client) => client.exchange().await,
            Client::Tcp(client) => client.exchange().await,
            Client::Connect(address) => {
                let mut client = tcp::Client::open(*address, tcp::Unit::Greeting).await?;
                client.exchange().await?;
                client.close().await
            }
            Client::ConnectHttp1(address) => http1::Client::open(*address).await?.exchange().await,
        }
    }
}

/// Opens connections that make one HTTP/1.1 request each and then keep still.
pub async fn idle(address: SocketAddr, count: usize) -> anyhow::Result<Vec<impl Sized>> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = http1::Client::open(address).await?;
        timeout(PATIENCE, client.exchange())
            .await
            .context("no answer in time")??;
        all.push(client);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend;

    /// All kinds of traffic, straight to the backend.
    #[tokio::test]
    async fn every_exchange_is_answered_and_checked() {
        let ports = backend::serve().await.unwrap();
        for (traffic, port) in [
            (Traffic::Http1, ports.http1),
            (Traffic::Http2, ports.http2),
            (Traffic::Grpc, ports.http2),
            (Traffic::Echo, ports.echo),
            (Traffic::Download, ports.bulk),
            (Traffic::Upload, ports.bulk),
            (Traffic::Connect, ports.echo),
            (Traffic::ConnectHttp1, ports.http1),
        ] {
            let mut clients = Clients::open(traffic, ([127, 0, 0, 1], port).into())
                .await
                .unwrap();
            for _ in 0..2 {
                let latencies = clients.run(20, 2000).await.unwrap();
                assert_eq!(latencies.len(), 20, "{traffic:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_wrong_answer_fails_the_run() {
        let ports = backend::serve().await.unwrap();
        // The echo answers the request with itself: no HTTP response.
        let mut clients = Clients::open(Traffic::Http1, ([127, 0, 0, 1], ports.echo).into())
            .await
            .unwrap();
        assert!(clients.run(5, 1000).await.is_err());
    }
}
