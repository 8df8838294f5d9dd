//! `osm local down`: ends the cluster and removes what it left.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::Down;
use super::place::{Layout, ProcessId, State};

/// The supervisor gives the daemon five seconds; after this time it is killed, and everything with it.
const DEADLINE: Duration = Duration::from_secs(8);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(20);

/// Ends the cluster.
pub fn down(options: &Down) -> anyhow::Result<ExitCode> {
    let layout = Layout::of(&options.place)?;
    if !layout.dir.exists() {
        println!("No cluster in {}", layout.dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let name = layout.running().map(|s| s.name);
    stop(&layout)?;
    let Some(_lock) = layout.lock()? else {
        bail!("another osm local is at work in {}", layout.dir.display())
    };
    clean(&layout, options.keep)?;
    let kept = if options.keep {
        "; its objects are kept"
    } else {
        ""
    };
    match name {
        Some(name) => println!("Cluster {name} is down{kept}"),
        None => println!("No cluster was running in {}", layout.dir.display()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what a cluster leaves in its folder: all but the user's image table, and the objects if `keep`.
pub fn clean(layout: &Layout, keep: bool) -> anyhow::Result<()> {
    let _ = fs::remove_dir(layout.check());
    for file in [
        layout.kubeconfig(),
        layout.state_file(),
        layout.ready_file(),
        layout.socket(),
        layout.daemon_log(),
        layout.dir.join("lock"),
    ] {
        ignore_missing(fs::remove_file(&file)).with_context(|| file.display().to_string())?;
    }
    ignore_missing(fs::remove_dir_all(layout.logs()))
        .with_context(|| layout.logs().display().to_string())?;
    if !keep {
        ignore_missing(fs::remove_dir_all(layout.data()))
            .with_context(|| layout.data().display().to_string())?;
    }
    // Goes only if nothing of the user's is left in it (the image table, kept data).
    let _ = fs::remove_dir(&layout.dir);
    Ok(())
}

/// Ends all processes of the cluster; returns when they are gone.
pub fn stop(layout: &Layout) -> anyhow::Result<()> {
    let state: Option<State> = fs::read(layout.state_file())
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(state) = state else { return Ok(()) };
    state.supervisor.signal(Signal::SIGTERM);
    let processes: Vec<ProcessId> = std::iter::once(state.supervisor)
        .chain(state.daemon)
        .collect();
    let begun = Instant::now();
    let mut killed = false;
    while processes.iter().any(ProcessId::alive) {
        if !killed && begun.elapsed() > DEADLINE {
            processes.iter().for_each(|p| p.signal(Signal::SIGKILL));
            killed = true;
        }
        if begun.elapsed() > DEADLINE * 2 {
            bail!(
                "processes {:?} of the cluster cannot be ended",
                processes.iter().map(|p| p.pid).collect::<Vec<_>>()
            );
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
