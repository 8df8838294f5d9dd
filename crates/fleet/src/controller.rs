//! The measured program: the controller, a process of its own on a processor of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The controller's processor; `scripts/bench-control` puts the cluster and the proxies on the other.
const PROCESSOR: &str = "1";
/// How long the controller may take until it knows the cluster.
const START: Duration = Duration::from_secs(60);
/// How long memory must stay the same to be taken as settled, and how often that is tried.
const STILL: Duration = Duration::from_millis(500);
const SETTLE: u32 = 20;
/// Linux' clock tick of `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// A running controller, ended when dropped.
pub struct Controller {
    child: Child,
    /// Where proxies connect.
    pub discovery: SocketAddr,
    log: PathBuf,
}

/// Ports it listens on.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    discovery: u16,
    /// Of the validating webhook.
    pub webhook: u16,
    health: u16,
}

// === impl Ports ===

impl Ports {
    /// Three that are free now.
    pub fn free() -> anyhow::Result<Ports> {
        // Held together, so that they differ.
        let held = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let mut ports = Vec::new();
        for listener in &held {
            match listener {
                Ok(listener) => ports.push(listener.local_addr()?.port()),
                Err(error) => anyhow::bail!("no free port: {error}"),
            }
        }
        match ports[..] {
            [discovery, webhook, health] => Ok(Ports {
                discovery,
                webhook,
                health,
            }),
            _ => anyhow::bail!("no free ports"),
        }
    }
}

// === impl Controller ===

impl Controller {
    /// Starts it and waits until it has read the cluster.
    pub async fn start(
        osm: &Path,
        folder: &Path,
        kubeconfig: &Path,
        ports: Ports,
    ) -> anyhow::Result<Controller> {
        let log = folder.join("controller.log");
        let mut command = Command::new("setpriv");
        // It dies with us, however we end.
        command.args(["--pdeathsig", "TERM"]);
        if std::thread::available_parallelism().map_or(1, usize::from) > 1 {
            command.args(["taskset", "-c", PROCESSOR]);
        }
        let child = command
            .arg(osm)
            .args(["controller", "--listen-address", "127.0.0.1", "-v", "warn"])
            .args(["--ads-port", &ports.discovery.to_string()])
            .args(["--webhook-port", &ports.webhook.to_string()])
            .args(["--http-port", &ports.health.to_string()])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", osm.display()))?;
        let mut controller = Controller {
            child,
            discovery: (Ipv4Addr::LOCALHOST, ports.discovery).into(),
            log,
        };
        controller.ready(ports.health).await?;
        Ok(controller)
    }

    async fn ready(&mut self, port: u16) -> anyhow::Result<()> {
        let end = Instant::now() + START;
        loop {
            let discovery = TcpStream::connect(self.discovery).await;
            if is_ready(port).await.unwrap_or(false) && discovery.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the controller ended with {status}: {}", self.last_lines());
            }
            anyhow::ensure!(
                Instant::now() < end,
                "the controller is not ready: {}",
                self.last_lines()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines of its log.
    pub fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Its private dirty memory, KiB, once it changes no more.
    pub async fn memory(&self) -> anyhow::Result<u64> {
        let mut last = 0;
        for _ in 0..SETTLE {
            tokio::time::sleep(STILL).await;
            let now = self.memory_now()?;
            if now.abs_diff(last) <= last / 500 {
                return Ok(now);
            }
            last = now;
        }
        Ok(last)
    }

    fn memory_now(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = text.lines().find(|line| line.starts_with("Private_Dirty:"));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(value.context("smaps_rollup")?.parse()?)
    }

    /// The most memory it ever had, KiB.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find(|line| line.starts_with("VmHWM:"));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(value.context("VmHWM")?.parse()?)
    }

    /// Time it spent on its processor, ended threads included.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name may hold anything; after it come the state and twelve numbers before these two.
        let (_, rest) = text.rsplit_once(')').context("stat")?;
        let times = rest.split_whitespace().skip(11).take(2);
        let ticks: Result<Vec<u64>, _> = times.map(str::parse).collect();
        Ok(TICK * u32::try_from(ticks?.iter().sum::<u64>())?)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

async fn is_ready(port: u16) -> anyhow::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream
        .write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
