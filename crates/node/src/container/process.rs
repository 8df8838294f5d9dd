//! Starting processes inside namespaces and waiting for them.
//!
//! Each process has a thread: namespaces are a thread's, the child inherits them, and the thread then waits for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use jiff::Timestamp;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::enter::Order;
use super::rights::Rights;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128+N for signal N.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// When.
    pub at: Timestamp,
}

/// A process that was started here. Not ended by dropping this.
#[derive(Clone, Debug)]
pub struct Process {
    pid: Pid,
    /// True once the kernel may give the pid to another process.
    reaped: Arc<Mutex<bool>>,
    ended: watch::Receiver<Option<Ended>>,
}

/// Output pipes of a process.
#[derive(Debug)]
pub struct Pipes {
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// Streams of a command in a container.
#[derive(Debug)]
pub struct Streams {
    /// Standard input, unless on a terminal.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
    /// The master side of the terminal.
    pub terminal: Option<OwnedFd>,
}

// === impl Process ===

impl Process {
    /// Its process id in the node's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock();
        if !*reaped {
            // ESRCH: it has just ended.
            let _ = kill(self.pid, signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|e| e.clone()) {
            Ok(Some(ended)) => ended,
            // The waiting thread is gone without an answer: only if it panicked.
            _ => Ended {
                code: 255,
                signal: None,
                at: Timestamp::now(),
            },
        }
    }

    /// Runs `spawn` on a fresh thread, reports the child or the error, then waits for the child on that thread.
    async fn start<T: Send + 'static>(
        spawn: impl FnOnce() -> io::Result<(Child, T)> + Send + 'static,
    ) -> io::Result<(Self, T)> {
        let (report, started) = oneshot::channel();
        let (ended_sender, ended) = watch::channel(None);
        let reaped = Arc::new(Mutex::new(false));
        let reaped_too = reaped.clone();
        std::thread::Builder::new()
            .name("container".to_owned())
            .spawn(move || {
                let mut child = match spawn() {
                    Ok((child, extra)) => {
                        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
                        if report.send(Ok((pid, extra))).is_err() {
                            // Nobody is interested any more.
                            let _ = kill(pid, Signal::SIGKILL);
                        }
                        child
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                        return;
                    }
                };
                let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
                // First see it dead, then reap it under the lock: a signal can never reach another process of the same pid.
                while let Err(nix::errno::Errno::EINTR) =
                    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
                {
                }
                let mut reaped = reaped_too.lock();
                let status = child.wait();
                *reaped = true;
                drop(reaped);
                ended_sender.send_replace(Some(ended_of(status)));
            })?;
        let (pid, extra) = started
            .await
            .map_err(|_| io::Error::other("container thread ended early"))??;
        Ok((Self { pid, reaped, ended }, extra))
    }
}

fn ended_of(status: io::Result<ExitStatus>) -> Ended {
    let at = Timestamp::now();
    match status {
        Ok(status) => {
            let signal = status.signal();
            Ended {
                code: status.code().unwrap_or(128 + signal.unwrap_or(0)),
                signal,
                at,
            }
        }
        Err(_) => Ended {
            code: 255,
            signal: None,
            at,
        },
    }
}

/// Kills a process unless told not to: a start that is given up must not leave one behind.
#[derive(Debug)]
pub struct KillOnDrop(pub Option<Process>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.signal(Signal::SIGKILL);
        }
    }
}

/// Starts a container. `netns`: its network namespace, or the node's. An error's text says what could not be done.
pub async fn start_container(
    netns: Option<Arc<File>>,
    order: Order,
    env: Vec<(String, String)>,
) -> io::Result<(Process, Pipes)> {
    let (near, far) = UnixStream::pair()?;
    let (process, (stdout, stderr)) = Process::start(move || {
        if let Some(netns) = netns {
            setns(&*netns, CloneFlags::CLONE_NEWNET)?;
        }
        unshare(
            CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWIPC,
        )?;
        let mut child = Command::new("/proc/self/exe")
            .args(["local", "container"])
            .env_clear()
            .envs(env)
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no stdout"))?;
        let stderr = child
            .stderr
            .take()
            .ok_or_else(|| io::Error::other("no stderr"))?;
        Ok((child, (OwnedFd::from(stdout), OwnedFd::from(stderr))))
    })
    .await?;
    let mut guard = KillOnDrop(Some(process.clone()));
    let complaint = tokio::task::spawn_blocking(move || hand_over(near, &order))
        .await
        .map_err(io::Error::other)?;
    match complaint {
        Ok(complaint) if complaint.is_empty() => {
            guard.0 = None;
            Ok((process, Pipes { stdout, stderr }))
        }
        failed => {
            process.signal(Signal::SIGKILL);
            process.wait().await;
            Err(io::Error::other(failed.unwrap_or_else(|e| e.to_string())))
        }
    }
}

/// Gives the order to the new process and returns its complaint; empty when it has become the program.
fn hand_over(mut channel: UnixStream, order: &Order) -> io::Result<String> {
    channel.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
    channel.write_all(&serde_json::to_vec(order)?)?;
    channel.shutdown(std::net::Shutdown::Write)?;
    let mut complaint = String::new();
    channel.read_to_string(&mut complaint)?;
    Ok(complaint)
}

/// Runs a command in the namespaces of a running container.
pub async fn exec(
    container: &Process,
    mut rights: Rights,
    command: Vec<String>,
    env: Vec<(String, String)>,
    terminal: bool,
) -> io::Result<(Process, Streams)> {
    if container.ended().is_some() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "container has ended",
        ));
    }
    let target = container.pid();
    Process::start(move || {
        unshare(CloneFlags::CLONE_FS)?;
        let named = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"))
        };
        let open = |name: &str| {
            File::open(format!("/proc/{target}/ns/{name}"))
                .map_err(named(&format!("{name} namespace")))
        };
        // Opened all before the first is entered: /proc is another one afterwards.
        let spaces = [
            (open("net")?, CloneFlags::CLONE_NEWNET),
            (open("uts")?, CloneFlags::CLONE_NEWUTS),
            (open("ipc")?, CloneFlags::CLONE_NEWIPC),
            (open("pid")?, CloneFlags::CLONE_NEWPID),
            (open("mnt")?, CloneFlags::CLONE_NEWNS),
        ];
        for (file, kind) in &spaces {
            setns(file, *kind).map_err(|e| named("enter namespace")(e.into()))?;
        }
        let master = if terminal {
            Some(open_terminal(&mut rights).map_err(named("terminal"))?)
        } else {
            None
        };
        let stdio = || {
            if terminal {
                Stdio::null()
            } else {
                Stdio::piped()
            }
        };
        let mut child = Command::new("/proc/self/exe")
            .args(["local", "exec", &serde_json::to_string(&rights)?, "--"])
            .args(&command)
            .env_clear()
            .envs(env)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .map_err(named("helper"))?;
        let streams = Streams {
            stdin: child.stdin.take().map(OwnedFd::from),
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
            terminal: master,
        };
        Ok((child, streams))
    })
    .await
}

/// Runs a program of the host in a network namespace, in a pid namespace of its own. Gives its output and error pipes.
pub async fn start_outside(
    netns: Arc<File>,
    command: Vec<String>,
    directory: PathBuf,
) -> io::Result<(Process, (pipe::Receiver, pipe::Receiver))> {
    let (process, (stdout, stderr)) = Process::start(move || {
        setns(&*netns, CloneFlags::CLONE_NEWNET)?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::other("no command"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{program}: {e}")))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("no stdout"))?;
        let stderr = child
            .stderr
            .take()
            .ok_or_else(|| io::Error::other("no stderr"))?;
        Ok((child, (OwnedFd::from(stdout), OwnedFd::from(stderr))))
    })
    .await?;
    Ok((
        process,
        (
            pipe::Receiver::from_owned_fd(stdout)?,
            pipe::Receiver::from_owned_fd(stderr)?,
        ),
    ))
}

/// A new terminal of the container (its own devpts); the child opens the slave itself to make it its controlling one.
fn open_terminal(rights: &mut Rights) -> io::Result<OwnedFd> {
    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ptsname_r(&master)?;
    // The user must be able to open it again (`tty`, `less`).
    nix::unistd::chown(slave.as_str(), Some(rights.uid.into()), None)?;
    rights.terminal = Some(slave);
    use std::os::fd::AsFd;
    master.as_fd().try_clone_to_owned()
}
