//! Envoy and osm-proxy as processes: started with a bootstrap file, awaited, ended with their handle.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::bootstrap::Bootstrap;
use crate::{client, eventually};

/// A running proxy.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: TempDir,
    /// Its administration.
    pub admin: SocketAddr,
    name: &'static str,
}

/// Where Envoy is: `ENVOY_BIN`, or what `scripts/envoy` prints; none if it cannot be had.
pub fn envoy_binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY_BIN").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let output = Command::new(workspace().join("scripts/envoy"))
        .output()
        .ok()?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!path.is_empty()).then(|| path.into())
}

/// Where osm-proxy is: `OSM_PROXY_BIN`, or beside the running test's folder.
pub fn osm_proxy_binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("OSM_PROXY_BIN").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let running = std::env::current_exe().ok()?;
    running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("osm-proxy"))
        .find(|path| path.is_file())
}

/// The repository's root.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn under(prefix: &[&str], program: &Path) -> Command {
    match prefix {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

// === impl Process ===

impl Process {
    /// A stock Envoy with one worker; none where there is no Envoy (say so and skip).
    pub fn envoy(bootstrap: &Bootstrap) -> Option<Process> {
        Process::envoy_under(&[], bootstrap)
    }

    /// As [`Process::envoy`], started by a prefix such as `taskset -c 1`.
    pub fn envoy_under(prefix: &[&str], bootstrap: &Bootstrap) -> Option<Process> {
        let mut command = under(prefix, &envoy_binary()?);
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--use-dynamic-base-id",
        ]);
        Some(Process::start("envoy", command, bootstrap))
    }

    /// osm-proxy with one worker; none where it is not built.
    pub fn osm_proxy(bootstrap: &Bootstrap) -> Option<Process> {
        Process::osm_proxy_under(&[], bootstrap)
    }

    /// As [`Process::osm_proxy`], started by a prefix such as `taskset -c 1`.
    pub fn osm_proxy_under(prefix: &[&str], bootstrap: &Bootstrap) -> Option<Process> {
        let mut command = under(prefix, &osm_proxy_binary()?);
        command.arg("run");
        Some(Process::start("osm-proxy", command, bootstrap))
    }

    /// A program that takes `-c <bootstrap file>`; standard output and error go to one log.
    pub fn start(name: &'static str, mut command: Command, bootstrap: &Bootstrap) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bootstrap.yaml");
        std::fs::write(&file, bootstrap.yaml()).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        command.arg("-c").arg(&file);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process {
            child,
            folder,
            admin: bootstrap.admin,
            name,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `/ready` answers 200.
    pub async fn ready(&mut self) {
        let name = self.name;
        eventually(&format!("{name} is ready"), async || {
            assert!(self.is_running(), "{name} ended:\n{}", self.log());
            self.admin("/ready")
                .await
                .is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// What its administration answers; none if it does not.
    pub async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let limit = Duration::from_secs(5);
        let exchange = client::h1::exchange(self.admin, request.as_bytes(), &["GET"], limit).await;
        let response = exchange.responses.into_iter().next()?;
        let body = String::from_utf8_lossy(&response.body).into_owned();
        Some((response.status, body))
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read(self.folder.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only the process that we started, by its handle.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
