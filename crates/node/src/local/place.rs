//! The folder of a cluster, and who lives in it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Place;

/// Files and folders of a cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The cluster's folder, absolute.
    pub dir: PathBuf,
}

/// A process, told apart from a later one with the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id in the host's pid namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
}

/// What the supervisor tells of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub name: String,
    /// Port of the API server on 127.0.0.1.
    pub port: u16,
    /// The supervisor.
    pub supervisor: ProcessId,
    /// The daemon: first process of the private namespaces; absent while it is being started.
    pub daemon: Option<ProcessId>,
    /// The node has been Ready.
    pub ready: bool,
    /// How often the daemon was started again.
    pub restarts: u32,
}

// === impl Layout ===

impl Layout {
    /// The folder that the options or the environment name.
    pub fn of(place: &Place) -> anyhow::Result<Self> {
        let dir = match &place.dir {
            Some(dir) => dir.clone(),
            None => {
                let state = std::env::var_os("XDG_STATE_HOME")
                    .filter(|v| !v.is_empty())
                    .map(PathBuf::from);
                let home =
                    || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
                state
                    .or_else(home)
                    .context("neither --dir nor HOME says where to keep the cluster")?
                    .join("osm")
            }
        };
        Ok(Self {
            dir: std::path::absolute(&dir).with_context(|| format!("--dir {}", dir.display()))?,
        })
    }

    /// Makes the folder; only its owner may look in.
    pub fn create(&self) -> anyhow::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .with_context(|| format!("--dir {}", self.dir.display()))?;
        let dir = self.dir.canonicalize()?;
        // The cluster covers /run with a tmpfs of its own.
        if dir.starts_with("/run")
            || dir.starts_with("/proc")
            || dir.starts_with("/sys")
            || dir.starts_with("/dev")
        {
            bail!(
                "--dir {}: choose a folder outside /run, /proc, /sys and /dev",
                self.dir.display()
            );
        }
        Ok(())
    }

    /// Kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Objects and keys of the API server.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Container logs, and those of outside programs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The image table; `down` keeps it.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images.json")
    }

    /// Log of supervisor and daemon.
    pub fn daemon_log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Where `up` tries mounts; empty outside its namespace.
    pub fn check(&self) -> PathBuf {
        self.dir.join("check")
    }

    /// What the supervisor tells.
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// Written by the daemon when the node is Ready.
    pub fn ready_file(&self) -> PathBuf {
        self.dir.join("ready")
    }

    /// Where the daemon takes requests.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The state, if a supervisor lives.
    pub fn running(&self) -> Option<State> {
        let state: State = serde_json::from_slice(&fs::read(self.state_file()).ok()?).ok()?;
        state.supervisor.alive().then_some(state)
    }

    /// Writes the state; readers see the old or the new one.
    pub fn write_state(&self, state: &State) -> io::Result<()> {
        let draft = self.dir.join("state.json.new");
        fs::write(&draft, serde_json::to_vec(state)?)?;
        fs::rename(draft, self.state_file())
    }

    /// Takes the folder for one `up`, `down` or supervisor at a time; `None`: somebody else has it.
    pub fn lock(&self) -> anyhow::Result<Option<Flock<File>>> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }
}

/// Our own executable. Replaced while a cluster runs (a rebuild), the path leads to the new program.
pub fn executable() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("our own executable")?;
    Ok(PathBuf::from(
        path.to_string_lossy().trim_end_matches(" (deleted)"),
    ))
}

// === impl ProcessId ===

impl ProcessId {
    /// A living process.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_time: start_time(pid)?,
        })
    }

    /// This process.
    pub fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// It still lives (a zombie does not).
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Sends a signal if it still lives.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        if self.alive() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
        }
    }
}

fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so fields are counted after its end.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let own = ProcessId::own().unwrap();
        assert!(own.alive());
        assert!(
            !ProcessId {
                start_time: own.start_time + 1,
                ..own
            }
            .alive()
        );
    }

    #[test]
    fn only_one_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout {
            dir: folder.path().to_owned(),
        };
        let first = layout.lock().unwrap();
        assert!(first.is_some());
        assert!(layout.lock().unwrap().is_none());
        drop(first);
        assert!(layout.lock().unwrap().is_some());
    }
}
