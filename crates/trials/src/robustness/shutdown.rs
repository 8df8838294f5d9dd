//! A sidecar that is told to stop while requests and connections go through it: none may be lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http::Request;
use testkit::Process;
use testkit::client::{Target, h2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::application::Application;
use super::connections::signal;
use super::load::Load;
use crate::Outcome;
use crate::stage::{Protocol, Service, Stage};

/// How long load goes on after the signal: new connections are taken for five seconds.
const WHILE_DRAINING: Duration = Duration::from_secs(3);
/// After this the sidecar listens no more, but lets open connections end.
const NO_LISTENERS: Duration = Duration::from_secs(7);
/// After this it is gone, whatever is open.
const GONE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(10);

pub async fn of_client() -> anyhow::Result<Outcome> {
    terminate(|stage| &mut stage.client, true).await
}

pub async fn of_server() -> anyhow::Result<Outcome> {
    terminate(|stage| &mut stage.server, false).await
}

/// `is_front`: clients speak with the side itself, and are told to go.
async fn terminate(
    side: fn(&mut Stage) -> &mut Process,
    is_front: bool,
) -> anyhow::Result<Outcome> {
    let application = Application::start("a").await;
    let services = vec![
        Service::new("web", Protocol::Http1, application.address),
        Service::new("raw", Protocol::Tcp, echo().await?),
    ];
    let mut stage = Stage::start(services).await?;
    let front = stage.service("web")?.front();
    let mut stream = first(&stage).await?;
    let load = Load::start(front, 8);
    let end = Instant::now() + Duration::from_secs(1) + WHILE_DRAINING;
    let over_http2: Vec<JoinHandle<anyhow::Result<Http2>>> =
        (0..4).map(|_| tokio::spawn(ask(front, end))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = Instant::now();
    signal("-TERM", &side(&mut stage).id().to_string()).await?;
    tokio::time::sleep_until((told + WHILE_DRAINING).into()).await;
    let tally = load.stop().await;
    tally.judge(0)?;
    let mut all = Http2::default();
    for task in over_http2 {
        let one = task.await??;
        all.good += one.good;
        all.connections += one.connections;
    }
    let told_to_go = all.connections > 4;
    ensure!(told_to_go == is_front, "{all:?}");
    tokio::time::sleep_until((told + NO_LISTENERS).into()).await;
    said(&mut stream, b"while it drains")
        .await
        .context("while it drains")?;
    let process = side(&mut stage);
    ensure!(
        process.is_running(),
        "it left before its last connection:\n{}",
        process.log()
    );
    drop(stream);
    while process.is_running() {
        ensure!(told.elapsed() < GONE, "it does not end:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Outcome::Good(format!(
        "HTTP/1: {}; HTTP/2: {} right on {} connections; a TCP connection was let end; it was gone after {:.1} s",
        tally.told(),
        all.good,
        all.connections,
        told.elapsed().as_secs_f32()
    )))
}

/// A connection through both sides. A port that somebody else's outgoing connection had is listened on a little late:
/// what was reset before is tried again, for a limited time.
async fn first(stage: &Stage) -> anyhow::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        let mut stream = TcpStream::connect(stage.service("raw")?.front()).await?;
        match said(&mut stream, b"before").await {
            Ok(()) => return Ok(stream),
            Err(_) if begun.elapsed() < LIMIT => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            Err(error) => {
                let logs = format!("{}{}", stage.client.log(), stage.server.log());
                return Err(error.context(format!("before: {logs}")));
            }
        }
    }
}

/// What a client saw over HTTP/2.
#[derive(Debug, Default)]
struct Http2 {
    good: u64,
    connections: u64,
}

/// Asks one request after the other, on a connection as long as it may.
async fn ask(front: SocketAddr, end: Instant) -> anyhow::Result<Http2> {
    let target = Target::from(front);
    let mut seen = Http2::default();
    while Instant::now() < end {
        let opened = h2::Connection::open(&target, LIMIT).await;
        let mut connection = opened.map_err(|end| anyhow::anyhow!("no connection: {end:?}"))?;
        seen.connections += 1;
        while Instant::now() < end {
            let request = Request::get("http://web.ns/x").body(())?;
            let answer = connection.request(request, b"", None, LIMIT).await;
            match (&answer.reset, answer.status) {
                (None, 200) => seen.good += 1,
                // Told to go, and this request was not looked at: a client asks elsewhere.
                (Some(why), 0) if why.starts_with("GOAWAY") || why.contains("REFUSED") => break,
                _ => anyhow::bail!("over HTTP/2: {answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(seen)
}

async fn said(stream: &mut TcpStream, text: &[u8]) -> anyhow::Result<()> {
    stream.write_all(text).await?;
    let mut answer = vec![0u8; text.len()];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut answer)).await??;
    ensure!(answer == text, "{answer:?}");
    Ok(())
}

/// Says back what it hears, for ever.
async fn echo() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Ok(address)
}
