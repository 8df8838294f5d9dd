//! A network that loses and delays.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::application::Application;
use super::load::Load;
use crate::Outcome;
use crate::stage::{Plan, Protocol, Service, Stage};

/// Of a hundred packets this many are lost, each way.
const LOST: u32 = 3;
/// How long a piece is on the way.
const DELAY: Duration = Duration::from_millis(40);
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 213, 77, 1));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 213, 77, 2));

/// A namespace behind a link that loses packets; it is removed when dropped.
struct Namespace(String);

async fn command(words: &str) -> anyhow::Result<()> {
    let mut parts = words.split(' ');
    let output = Command::new(parts.next().unwrap_or_default())
        .args(parts)
        .output()
        .await?;
    if !output.status.success() {
        bail!("{words}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Namespace {
    async fn new() -> anyhow::Result<Namespace> {
        let name = format!("osm-trial-{}", std::process::id());
        command(&format!("ip netns add {name}")).await?;
        let namespace = Namespace(name);
        let name = &namespace.0;
        let (near, far) = (
            format!("ot{}a", std::process::id()),
            format!("ot{}b", std::process::id()),
        );
        command(&format!(
            "ip link add {near} type veth peer name {far} netns {name}"
        ))
        .await?;
        command(&format!("ip addr add {HOST}/30 dev {near}")).await?;
        command(&format!("ip link set {near} up")).await?;
        command(&format!("ip -n {name} addr add {FAR}/30 dev {far}")).await?;
        command(&format!("ip -n {name} link set {far} up")).await?;
        command(&format!("ip -n {name} link set lo up")).await?;
        Ok(namespace)
    }

    /// From now on packets are lost in both directions.
    async fn lose(&self) -> anyhow::Result<()> {
        let rules = format!(
            "add table ip loss; add chain ip loss i {{ type filter hook input priority 0 ; }}; add chain ip loss o {{ type filter hook output priority 0 ; }}; \
             add rule ip loss i iifname != lo numgen random mod 100 < {LOST} drop; add rule ip loss o oifname != lo numgen random mod 100 < {LOST} drop"
        );
        let output = Command::new("ip")
            .args(["netns", "exec", &self.0, "nft", &rules])
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "nft: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The link goes with the namespace.
        let _ = std::process::Command::new("ip")
            .args(["netns", "del", &self.0])
            .status();
    }
}

pub async fn loss(seconds: u64) -> anyhow::Result<Outcome> {
    let namespace = match Namespace::new().await {
        Ok(namespace) => namespace,
        Err(error) => {
            return Ok(Outcome::Skipped(format!(
                "no network namespaces here: {error:#}"
            )));
        }
    };
    // The application stays on this side: its own hop loses packets, too.
    let application = Application::start_at("a", SocketAddr::new(HOST, 0)).await;
    let mut service = Service::new("web", Protocol::Http1, application.address);
    service.hop.set_ip(FAR);
    let plan = Plan {
        server_prefix: ["ip", "netns", "exec", &namespace.0]
            .map(str::to_owned)
            .to_vec(),
        ads: HOST,
        server_address: FAR,
        ..Plan::default()
    };
    let stage = Stage::plan(&plan, vec![service]).await?;
    namespace.lose().await?;
    let load = Load::start(stage.service("web")?.front(), 8);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let tally = load.stop().await;
    // TCP repeats what is lost. Only a connection's beginning has a deadline (5 s): 503 by connect timeout is explained.
    let unexplained = tally
        .failed
        .keys()
        .find(|reason| !reason.starts_with("503 "));
    ensure!(unexplained.is_none(), "{}", tally.told());
    tally.judge(tally.good / 100)?;
    Ok(Outcome::Good(format!(
        "{LOST} of 100 packets lost each way; {}",
        tally.told()
    )))
}

/// Passes bytes on after a while, in order.
async fn relay(to: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(to).await else {
                    return;
                };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::join!(delayed(near_read, far_write), delayed(far_read, near_write));
            });
        }
    });
    Ok(address)
}

async fn delayed(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async move {
        let mut buffer = vec![0u8; 16 << 10];
        while let Ok(length) = from.read(&mut buffer).await {
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            if length == 0 || sender.send((Instant::now() + DELAY, piece)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

pub async fn delay(seconds: u64) -> anyhow::Result<Outcome> {
    let application = Application::start("a").await;
    let mut service = Service::new("web", Protocol::Http1, application.address);
    service.hop = relay(service.hop).await?;
    let stage = Stage::start(vec![service]).await?;
    let load = Load::start(stage.service("web")?.front(), 8);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let tally = load.stop().await;
    tally.judge(0)?;
    // Eight clients and 80 ms there and back: 90 answers a second but for the proxies' own time.
    ensure!(
        tally.good > 20 * seconds,
        "a delay must not add up: {}",
        tally.told()
    );
    Ok(Outcome::Good(format!(
        "{} ms each way; {}",
        DELAY.as_millis(),
        tally.told()
    )))
}
