//! What a program in a container sees and may do. Runs the example `sandbox` in private namespaces; needs root.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The example beside this test's executable; `None` (with the reason printed) where the tests cannot run.
fn sandbox() -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: making network namespaces and overlays needs root");
        return None;
    }
    let own = std::env::current_exe().expect("own path");
    let path = own.parent()?.parent()?.join("examples/sandbox");
    assert!(
        path.is_file(),
        "{} is missing: cargo builds examples with tests",
        path.display()
    );
    Some(path)
}

fn run(options: &[&str], command: &[&str]) -> Option<Output> {
    let output = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(sandbox()?)
        .arg("run")
        .args(options)
        .arg("--")
        .args(command)
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("unshare runs");
    Some(output)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_container_has_its_own_root_pids_network_and_names() {
    let script = "echo $$; hostname; cat /etc/resolv.conf; ls /tmp; touch /etc/changed && echo written; cat /sys/class/net/eth0/mtu; ls /.host 2>&1";
    let Some(output) = run(&[], &["sh", "-c", script]) else {
        return;
    };
    let out = text(&output);
    assert!(
        out.starts_with("1\npod\nnameserver 10.96.0.10\nwritten\n1500\n"),
        "{out}"
    );
    assert!(
        out.contains("No such file"),
        "the host's root is gone: {out}"
    );
    assert!(
        !std::path::Path::new("/etc/changed").exists(),
        "the host is untouched"
    );
}

#[test]
fn users_lose_capabilities_and_root_keeps_the_runtimes_default_set() {
    let capabilities = [
        "sh",
        "-c",
        "id -u > /dev/stdout; grep -E 'CapEff|CapBnd' /proc/self/status; exit 7",
    ];
    let Some(output) = run(&["--uid", "1500", "--add", "NET_ADMIN"], &capabilities) else {
        return;
    };
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(
        text(&output),
        "1500\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80435fb\n"
    );
    let Some(output) = run(&[], &capabilities) else {
        return;
    };
    assert_eq!(
        text(&output),
        "0\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n"
    );
}

#[test]
fn a_program_below_a_closed_folder_can_be_shown_to_any_user() {
    let folder = tempfile::Builder::new()
        .prefix("closed")
        .tempdir()
        .expect("folder");
    std::fs::copy("/bin/true", folder.path().join("prog")).expect("copy");
    let mount = format!(
        "{}:/usr/local/bin/prog",
        folder.path().join("prog").display()
    );
    let Some(output) = run(&["--uid", "1500", "--mount", &mount], &["prog"]) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_read_only_root_refuses_writes_but_tmp_does_not() {
    let script = "touch /x 2>/dev/null && echo root; touch /tmp/x && echo tmp; (echo 1 > /proc/sys/net/ipv4/ip_forward) 2>/dev/null || echo proc";
    let Some(output) = run(&["--read-only-root"], &["sh", "-c", script]) else {
        return;
    };
    assert_eq!(text(&output), "tmp\nproc\n");
}

#[test]
fn a_missing_program_is_named() {
    let Some(output) = run(&[], &["nosuch"]) else {
        return;
    };
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("exec: \"nosuch\": executable file not found in $PATH"),
        "{error}"
    );
}

#[test]
fn a_command_beside_it_shares_its_namespaces_and_may_have_a_terminal() {
    let Some(output) = run(
        &["--exec"],
        &[
            "sh",
            "-c",
            "hostname; cat /proc/1/comm; echo $WHERE; exit 3",
        ],
    ) else {
        return;
    };
    assert_eq!(
        (text(&output).as_str(), output.status.code()),
        ("pod\nsleep\ninside\n", Some(3))
    );
    let Some(output) = run(
        &["--exec", "--tty", "--uid", "1500"],
        &["sh", "-c", "tty; echo > /dev/tty; exit 4"],
    ) else {
        return;
    };
    assert_eq!(
        (text(&output).trim(), output.status.code()),
        ("/dev/pts/0", Some(4))
    );
}
