//! The supervisor: holds the API port in the host's network namespace and starts the daemon again when it dies.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::Supervise;
use super::place::{Layout, ProcessId, State, executable};
use super::up::namespaces;

/// Pause before the daemon is started again, growing with each death.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What the daemon gets to close its store.
const CLOSING: Duration = Duration::from_secs(5);
/// How often the daemon's state is looked at while it starts.
const LOOK: Duration = Duration::from_millis(10);

/// Runs until told to end (SIGTERM) or until the daemon fails at its first start.
pub fn supervise(options: &Supervise) -> anyhow::Result<ExitCode> {
    let layout = Layout::of(&options.place)?;
    // The lock is inherited from nobody: `up` gives it back at about the same time.
    let lock = (0..100).find_map(|_| match layout.lock() {
        Ok(None) => {
            std::thread::sleep(LOOK);
            None
        }
        other => Some(other),
    });
    let _lock = lock
        .unwrap_or(Ok(None))?
        .with_context(|| format!("another cluster runs in {}", layout.dir.display()))?;
    let listener = TcpListener::bind(("127.0.0.1", options.port))
        .with_context(|| format!("API port {} on 127.0.0.1", options.port))?;
    let mut state = State {
        name: options.name.clone(),
        port: listener.local_addr()?.port(),
        supervisor: ProcessId::own().context("/proc is not readable")?,
        daemon: None,
        ready: false,
        restarts: 0,
    };
    layout.write_state(&state)?;
    // One thread: a child asks to die with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(keep_running(&layout, &listener, &mut state))
}

async fn keep_running(
    layout: &Layout,
    listener: &TcpListener,
    state: &mut State,
) -> anyhow::Result<ExitCode> {
    let mut end = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ever_ready = false;
    let mut pause = PAUSE;
    loop {
        let mut child = start(layout, listener, state)?;
        let died = tokio::select! {
            status = child.wait() => status?,
            never = watch_ready(layout, state, &mut ever_ready) => never?,
            _ = end.recv() => return stop(layout, state, child).await,
            _ = interrupt.recv() => return stop(layout, state, child).await,
        };
        let was_ready = std::mem::take(&mut state.ready);
        state.daemon = None;
        if !ever_ready {
            bail!("the daemon ended before the node was Ready ({died})");
        }
        state.restarts += 1;
        layout.write_state(state)?;
        pause = if was_ready {
            PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        eprintln!("the daemon ended ({died}); starting it again in {pause:?}");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = end.recv() => return finish(layout),
            _ = interrupt.recv() => return finish(layout),
        }
    }
}

fn start(
    layout: &Layout,
    listener: &TcpListener,
    state: &State,
) -> anyhow::Result<tokio::process::Child> {
    let _ = fs::remove_file(layout.ready_file());
    let mut command = namespaces(nix::unistd::geteuid().is_root());
    command
        .arg(executable()?)
        .args(["local", "daemon", "--name", &state.name, "--dir"])
        .arg(&layout.dir)
        // The listening socket travels as standard input: the one descriptor a child can be given by safe means.
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)));
    tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .context("setpriv")
}

/// Notes the daemon's pid and that it is Ready; never returns otherwise.
async fn watch_ready<T>(
    layout: &Layout,
    state: &mut State,
    ever_ready: &mut bool,
) -> anyhow::Result<T> {
    let own = state.supervisor.pid;
    while !layout.ready_file().exists() {
        if state.daemon.is_none() {
            // `setpriv` becomes `unshare`, whose only child is the daemon.
            state.daemon = only_child(own).and_then(only_child).and_then(ProcessId::of);
            if state.daemon.is_some() {
                layout.write_state(state)?;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    state.daemon = only_child(own).and_then(only_child).and_then(ProcessId::of);
    state.ready = true;
    *ever_ready = true;
    layout.write_state(state)?;
    std::future::pending().await
}

/// The child of a process that has one.
fn only_child(pid: i32) -> Option<i32> {
    let mut children = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let child: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        let parent: i32 = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()?;
        (parent == pid).then_some(child)
    });
    children.next()
}

async fn stop(
    layout: &Layout,
    state: &State,
    mut child: tokio::process::Child,
) -> anyhow::Result<ExitCode> {
    if let Some(daemon) = &state.daemon {
        daemon.signal(Signal::SIGTERM);
        if tokio::time::timeout(CLOSING, child.wait()).await.is_ok() {
            return finish(layout);
        }
    }
    // Kills `unshare`, hence the daemon, hence everything in the namespaces.
    child.kill().await?;
    finish(layout)
}

fn finish(layout: &Layout) -> anyhow::Result<ExitCode> {
    for file in [layout.state_file(), layout.ready_file(), layout.socket()] {
        let _ = fs::remove_file(file);
    }
    Ok(ExitCode::SUCCESS)
}
