//! Proxies as child processes, all on one processor that is not the load's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpStream;

/// The processor of the proxies; `scripts/bench` puts the load and the backend on the other.
const PROXY_PROCESSOR: &str = "1";
/// How long a proxy may take until it serves.
const START: Duration = Duration::from_secs(30);

/// A running proxy, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

// === impl Process ===

impl Process {
    /// Starts a program; its output goes to a file in the folder.
    pub fn start(
        folder: &Path,
        name: &str,
        program: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<Process> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        // It dies with us, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        if processors() > 1 {
            command.args(["taskset", "-c", PROXY_PROCESSOR]);
        }
        command.arg(program);
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Process { child, log })
    }

    /// Its process id; the programs in front become the one they start.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something listens there, or the process has ended.
    pub async fn listens(&mut self, address: (std::net::Ipv4Addr, u16)) -> anyhow::Result<()> {
        let end = Instant::now() + START;
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended with {status}: {}", self.last_lines());
            }
            anyhow::ensure!(
                Instant::now() < end,
                "nothing listens at {address:?}: {}",
                self.last_lines()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM first: nginx' master must end its worker.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many processors this machine has.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
