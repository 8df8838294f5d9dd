//! Programs as children: found, run to their end, or kept while a trial needs them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a program may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a program is, if it is installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = [
        "/usr/sbin",
        "/usr/lib/postgresql/15/bin",
        "/usr/lib/postgresql/16/bin",
        "/usr/lib/postgresql/17/bin",
    ];
    std::env::split_paths(&path)
        .chain(more.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Runs to the end; what it printed.
pub async fn run(program: impl AsRef<Path>, arguments: &[&str]) -> anyhow::Result<String> {
    let (good, printed) = attempt(program.as_ref(), arguments).await?;
    if !good {
        bail!("{} {arguments:?}: {printed}", program.as_ref().display());
    }
    Ok(printed)
}

/// Runs to the end; whether it said that all went well, and what it printed.
pub async fn attempt(program: &Path, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let running = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, running)
        .await
        .with_context(|| format!("{} {arguments:?} did not end", program.display()))??;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// A server; it ends with the value.
pub async fn serve(program: &Path, arguments: &[&str], at: SocketAddr) -> anyhow::Result<Child> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| program.display().to_string())?;
    let listens = async {
        while TcpStream::connect(at).await.is_err() {
            if let Ok(Some(status)) = child.try_wait() {
                bail!("{} ended: {status}", program.display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, listens)
        .await
        .context("it does not listen")??;
    Ok(child)
}

/// Words that make a program run as nobody where we are root: some servers refuse to be.
pub fn as_nobody() -> Vec<&'static str> {
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    if is_root {
        vec![
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]
    } else {
        Vec::new()
    }
}

/// A temporary folder that nobody may write to, too.
pub fn folder() -> anyhow::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}
