//! Too many connections, and what stays behind when they are gone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::application::Application;
use super::load::Load;
use crate::Outcome;
use crate::stage::{Plan, Protocol, Service, Stage};

/// What five thousand connections more may leave behind, in bytes: allocators keep some of what they had.
const LEFT: u64 = 1 << 20;

/// Sends a signal to a process that a trial started.
pub async fn signal(name: &str, pid: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args([name, pid]).status().await?;
    ensure!(status.success(), "kill {name} {pid}");
    Ok(())
}

pub async fn exhaustion() -> anyhow::Result<Outcome> {
    let application = Application::start("a").await;
    let plan = Plan {
        client_prefix: ["prlimit", "--nofile=400:400"].map(str::to_owned).to_vec(),
        ..Plan::default()
    };
    let mut stage = Stage::plan(
        &plan,
        vec![Service::new("web", Protocol::Http1, application.address)],
    )
    .await?;
    let front = stage.service("web")?.front();
    let mut held = Vec::new();
    for _ in 0..1_000 {
        // The kernel completes them; the proxy has no descriptor to accept them with.
        if let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(front)).await
        {
            held.push(stream);
        }
    }
    ensure!(
        held.len() > 400,
        "only {} connections were made",
        held.len()
    );
    let load = Load::start(front, 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(
        stage.client.is_running(),
        "it ended:\n{}",
        stage.client.log()
    );
    let starved = load.tally();
    let number = held.len();
    drop(held);
    let rest = load.stop().await;
    ensure!(rest.wrong.is_empty(), "{}", rest.told());
    let load = Load::start(front, 8);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let tally = load.stop().await;
    tally.judge(0)?;
    ensure!(
        stage.client.is_running(),
        "it ended:\n{}",
        stage.client.log()
    );
    Ok(Outcome::Good(format!(
        "{number} connections against 400 descriptors (then: {}); after they left: {}",
        starved.told(),
        tally.told()
    )))
}

/// Anonymous memory of a process, in bytes.
fn anonymous(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .context("RssAnon")?;
    let number = line.split_whitespace().nth(1).context("a number")?;
    Ok(number.parse::<u64>()? << 10)
}

/// A connection with one request on it.
async fn visit(front: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(front).await?;
    stream
        .write_all(b"GET /visit HTTP/1.1\r\nHost: web.ns\r\n\r\n")
        .await?;
    let mut buffer = [0u8; 1024];
    let length = stream.read(&mut buffer).await?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

async fn visits(front: SocketAddr, number: usize) -> anyhow::Result<()> {
    for _ in 0..number / 250 {
        let mut visits = JoinSet::new();
        for _ in 0..250 {
            visits.spawn(visit(front));
        }
        while let Some(visit) = visits.join_next().await {
            visit??;
        }
    }
    Ok(())
}

pub async fn ten_thousand() -> anyhow::Result<Outcome> {
    let application = Application::start("a").await;
    let stage = Stage::start(vec![Service::new(
        "web",
        Protocol::Http1,
        application.address,
    )])
    .await?;
    let front = stage.service("web")?.front();
    let pids = [stage.client.id(), stage.server.id()];
    // What a process needs once (buffers, pools, tables) is there after the first thousands.
    visits(front, 5_000).await?;
    let mut seen = vec![memory(pids).await?];
    for _ in 0..2 {
        visits(front, 5_000).await?;
        seen.push(memory(pids).await?);
    }
    let told: Vec<String> = seen
        .iter()
        .map(|[client, server]| format!("{} and {} KiB", client >> 10, server >> 10))
        .collect();
    let told = format!(
        "client and server after 5000, 10000, 15000: {}",
        told.join(", ")
    );
    // The first of the two rounds may still find tables to fill; the second finds them full.
    let grown = seen[2]
        .iter()
        .zip(seen[1])
        .any(|(after, before)| *after > before + LEFT);
    ensure!(!grown, "memory grew: {told}");
    Ok(Outcome::Good(told))
}

/// Anonymous memory of both once their connections are gone.
async fn memory(pids: [u32; 2]) -> anyhow::Result<[u64; 2]> {
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok([anonymous(pids[0])?, anonymous(pids[1])?])
}
