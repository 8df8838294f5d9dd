//! `osm local up`: checks the machine, starts the supervisor, waits for the node.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::place::{Layout, State, executable};
use super::{Up, down};

/// How often the state is looked at while waiting.
const LOOK: Duration = Duration::from_millis(20);
/// How much of the daemon's log is shown when it fails.
const LINES_SHOWN: usize = 15;

/// Starts a cluster and returns when its node is Ready.
pub fn up(options: &Up) -> anyhow::Result<ExitCode> {
    let layout = Layout::of(&options.place)?;
    if let Some(state) = layout.running() {
        println!(
            "Cluster {} is already running in {}",
            state.name,
            layout.dir.display()
        );
        print_export(&layout);
        return Ok(ExitCode::SUCCESS);
    }
    if options.port != 0 {
        std::net::TcpListener::bind(("127.0.0.1", options.port))
            .with_context(|| format!("--port {} on 127.0.0.1", options.port))?;
    }
    let fresh = !layout.data().exists();
    layout.create()?;
    let Some(lock) = layout.lock()? else {
        bail!("another osm local is at work in {}", layout.dir.display())
    };
    let missing = missing(&layout.check());
    if !missing.is_empty() {
        for line in &missing {
            eprintln!("{line}");
        }
        bail!(
            "this machine cannot run the embedded cluster yet ({} problem(s) above)",
            missing.len()
        );
    }
    for stale in [
        layout.state_file(),
        layout.ready_file(),
        layout.socket(),
        layout.kubeconfig(),
    ] {
        let _ = fs::remove_file(stale);
    }
    let interrupted = Interrupt::watch()?;
    let mut supervisor = start_supervisor(options, &layout)?;
    // From here on the supervisor holds the folder.
    drop(lock);
    let begun = Instant::now();
    loop {
        if let Some(State { ready: true, .. }) = layout.running() {
            break;
        }
        if let Some(status) = supervisor.try_wait()? {
            show_log(&layout.daemon_log());
            bail!(
                "the cluster did not start ({status}); its log is {}",
                layout.daemon_log().display()
            );
        }
        let late = begun.elapsed() > options.timeout;
        if late || interrupted.seen() {
            down::stop(&layout)?;
            // It may not have come so far as to tell of itself; the daemon dies with it.
            let _ = supervisor.kill();
            supervisor.wait()?;
            if late {
                show_log(&layout.daemon_log());
                bail!(
                    "node not Ready after {} s; its log is {}",
                    options.timeout.as_secs(),
                    layout.daemon_log().display()
                );
            }
            // As if it had not been begun; objects of an earlier cluster stay.
            down::clean(&layout, !fresh)?;
            bail!("interrupted");
        }
        std::thread::sleep(LOOK);
    }
    println!(
        "Cluster {} is up in {:.1} s",
        options.name,
        begun.elapsed().as_secs_f32()
    );
    print_export(&layout);
    Ok(ExitCode::SUCCESS)
}

fn print_export(layout: &Layout) {
    println!("export KUBECONFIG={}", layout.kubeconfig().display());
}

fn start_supervisor(options: &Up, layout: &Layout) -> anyhow::Result<std::process::Child> {
    let log = File::create(layout.daemon_log())
        .with_context(|| layout.daemon_log().display().to_string())?;
    Command::new(executable()?)
        .args([
            "local",
            "supervise",
            "--name",
            &options.name,
            "--port",
            &options.port.to_string(),
            "--dir",
        ])
        .arg(&layout.dir)
        // A group of its own: Ctrl-C in the terminal is for `up`, which then ends the supervisor in good order.
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("the cluster's supervisor could not be started")
}

fn show_log(path: &Path) {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)) {
        eprintln!("  {line}");
    }
}

/// What this machine lacks, a line each, with the remedy.
fn missing(scratch: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for (program, package) in [
        ("nft", "nftables"),
        ("unshare", "util-linux"),
        ("setpriv", "util-linux"),
    ] {
        if !in_path(program) {
            lines.push(format!(
                "{program}: not found in PATH; install package {package}"
            ));
        }
    }
    let root = nix::unistd::geteuid().is_root();
    if !root && !in_path("newuidmap") {
        lines.push("newuidmap: not found in PATH; as an ordinary user the cluster needs package uidmap (or run as root)".to_owned());
    }
    let device = std::os::unix::fs::FileTypeExt::is_char_device;
    if !fs::metadata("/dev/null").is_ok_and(|m| device(&m.file_type())) && !root {
        lines.push(
            "/dev/null: not a device on this machine; repair it: mknod -m 666 /dev/null c 1 3"
                .to_owned(),
        );
    }
    if !lines.is_empty() {
        return lines;
    }
    // The real thing in small, so that a refusal names its step.
    let script = "set -e; step='private mounts'; trap 'echo \"$step\"' EXIT; mount -t tmpfs tmpfs \"$0\"; mkdir \"$0/u\" \"$0/w\" \"$0/m\"; \
        step=overlayfs; mount -t overlay overlay -o lowerdir=/etc,upperdir=\"$0/u\",workdir=\"$0/w\" \"$0/m\" || \
        mount -t overlay overlay -o lowerdir=/etc,upperdir=\"$0/u\",workdir=\"$0/w\",userxattr \"$0/m\"; \
        step='nf_tables'; nft add table inet probe; nft 'add chain inet probe nat { type nat hook prerouting priority -100; }'; \
        step=''; trap - EXIT";
    let _ = fs::create_dir(scratch);
    let output = namespaces(root)
        .args(["sh", "-c", script])
        .arg(scratch)
        .output();
    let _ = fs::remove_dir(scratch);
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let (step, error) = (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            let step = if step.trim().is_empty() {
                "namespaces"
            } else {
                step.trim()
            };
            let error = error.lines().next().unwrap_or("refused");
            lines.push(format!("{step}: {error}{}", advice(root, step)));
        }
        Err(error) => lines.push(format!("unshare: {error}")),
    }
    lines
}

fn advice(root: bool, step: &str) -> String {
    let setting = |path: &str, bad: &str| fs::read_to_string(path).is_ok_and(|v| v.trim() == bad);
    if root || step != "namespaces" {
        return String::new();
    }
    let reason = if setting(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "AppArmor forbids user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "sysctl -w kernel.unprivileged_userns_clone=1, or run as root"
    } else if setting("/proc/sys/user/max_user_namespaces", "0") {
        "sysctl -w user.max_user_namespaces=10000, or run as root"
    } else {
        "the user needs lines in /etc/subuid and /etc/subgid, and the kernel must allow user namespaces; or run as root"
    };
    format!(" ({reason})")
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// `unshare` into all the private namespaces; everything in them ends with it, and it with us.
pub fn namespaces(root: bool) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "SIGKILL", "unshare"]);
    if !root {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child=SIGKILL",
        "--mount-proc",
        "--",
    ]);
    command
}

/// Remembers Ctrl-C and a hang-up of the terminal.
struct Interrupt(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Interrupt {
    fn watch() -> anyhow::Result<Self> {
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = seen.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let kinds = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let mut signals = Vec::new();
        {
            let _guard = runtime.enter();
            for kind in kinds {
                signals.push(tokio::signal::unix::signal(
                    tokio::signal::unix::SignalKind::from_raw(kind as i32),
                )?);
            }
        }
        std::thread::spawn(move || {
            runtime.block_on(futures::future::select_all(
                signals.iter_mut().map(|s| Box::pin(s.recv())),
            ));
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        Ok(Self(seen))
    }

    fn seen(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
