//! Loading the rules with the programs that the image has.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use crate::iptables::{Family, Jumps, render};
use crate::options::{BackendChoice, Options};
use crate::{LocalProxyMode, Ruleset};

/// What loaded the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nft, table `inet osm`.
    Nft,
    /// iptables-restore and ip6tables-restore, table `nat`.
    Iptables,
    /// iptables-restore alone: the pod has no IPv6 address and the kernel no NAT for IPv6.
    IptablesV4Only,
}

/// Why no rules were loaded. Each is one line that says what to do or what the program said.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The image has no program that can load rules.
    #[error(
        "cannot intercept traffic: found neither nft nor iptables-restore with ip6tables-restore in PATH; the image needs one of them"
    )]
    NoProgram,
    /// The program asked for is not in the image.
    #[error("cannot intercept traffic: {0} is not in PATH")]
    NoSuchProgram(&'static str),
    /// The process may not change the rules of its network namespace.
    #[error("cannot intercept traffic: capability NET_ADMIN is missing ({program}: {output})")]
    NotPermitted {
        /// The program that was refused.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// The kernel lacks something that the rules need.
    #[error(
        "cannot intercept traffic: the kernel does not support a needed feature ({program}: {output})"
    )]
    Unsupported {
        /// The program that was refused.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// Anything else the program complained about.
    #[error("cannot intercept traffic: {program} failed: {output}")]
    Failed {
        /// The program that failed.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// PodIP mode without an address to send to.
    #[error(
        "cannot intercept traffic: local proxy mode PodIP needs the pod's address, in POD_IP or --pod-ip"
    )]
    NoPodIp,
}

/// Loads the rules into the network namespace of this process, in place of any it loaded before.
pub fn apply(options: &Options) -> Result<Backend, ApplyError> {
    if options.local_proxy_mode == LocalProxyMode::PodIp && options.pod_ip.is_empty() {
        return Err(ApplyError::NoPodIp);
    }
    match options.backend {
        BackendChoice::Nft => with_nft(options),
        BackendChoice::Iptables => with_iptables(options),
        BackendChoice::Auto => match with_nft(options) {
            // Old kernels have no NAT in tables of family inet, but the same in x_tables. nft's script is all or
            // nothing, so the two are never mixed.
            Err(ApplyError::NoSuchProgram(_)) => {
                with_iptables(options).map_err(|error| match error {
                    ApplyError::NoSuchProgram(_) => ApplyError::NoProgram,
                    other => other,
                })
            }
            Err(unsupported @ ApplyError::Unsupported { .. }) => {
                with_iptables(options).map_err(|error| match error {
                    ApplyError::NoSuchProgram(_) => unsupported,
                    other => other,
                })
            }
            other => other,
        },
    }
}

fn with_nft(options: &Options) -> Result<Backend, ApplyError> {
    load("nft", &["-f", "-"], &Ruleset::new(options).nft())?;
    Ok(Backend::Nft)
}

fn with_iptables(options: &Options) -> Result<Backend, ApplyError> {
    restore("iptables-restore", options, Family::V4)?;
    match restore("ip6tables-restore", options, Family::V6) {
        Ok(()) => Ok(Backend::Iptables),
        // Without an address nothing can be sent or received past the sidecar, so this is safe.
        Err(ApplyError::Unsupported { .. } | ApplyError::NoSuchProgram(_))
            if !has_ipv6_address() =>
        {
            Ok(Backend::IptablesV4Only)
        }
        Err(error) => Err(error),
    }
}

fn restore(program: &'static str, options: &Options, family: Family) -> Result<(), ApplyError> {
    // -w: wait for another iptables (the lock is the node's with some mounts) instead of failing.
    let arguments = ["--noflush", "-w", "10"];
    // A script is one transaction: with our jumps there it replaces them, without them it fails and changes nothing.
    match load(
        program,
        &arguments,
        &render(options, family, Jumps::Replace),
    ) {
        Ok(()) => Ok(()),
        Err(missing @ ApplyError::NoSuchProgram(_)) => Err(missing),
        Err(_) => load(program, &arguments, &render(options, family, Jumps::Add)),
    }
}

fn load(program: &'static str, arguments: &[&str], script: &str) -> Result<(), ApplyError> {
    let failed = |error: std::io::Error| ApplyError::Failed {
        program,
        output: error.to_string(),
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(ApplyError::NoSuchProgram(program));
        }
        Err(error) => return Err(failed(error)),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that gives up early closes the pipe; its own message is the better one.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    });
    Err(classify(program, &said, &output.status, has_net_admin()))
}

fn classify(
    program: &'static str,
    said: &str,
    status: &dyn fmt::Display,
    has_net_admin: bool,
) -> ApplyError {
    let line = said
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    let output = line.map_or_else(|| status.to_string(), str::to_owned);
    let any = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    // iptables-legacy says the same of a missing capability and of a missing table, so the capability is looked at too.
    if !has_net_admin
        || any(&[
            "Operation not permitted",
            "Permission denied",
            "you must be root",
        ])
    {
        ApplyError::NotPermitted { program, output }
    } else if any(&[
        "not supported",
        "No such file or directory",
        "No chain/target/match",
        "unable to initialize table",
        "Couldn't load",
        "do you need to insmod",
        "does not exist",
    ]) {
        ApplyError::Unsupported { program, output }
    } else {
        ApplyError::Failed { program, output }
    }
}

/// True if this process may change its network namespace. Bit 12 of the effective set is CAP_NET_ADMIN.
fn has_net_admin() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return true;
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_none_or(|mask| mask & (1 << 12) != 0)
}

/// True if any interface has an IPv6 address others can reach. Lines are `address index prefix scope flags name`.
fn has_ipv6_address() -> bool {
    let Ok(addresses) = std::fs::read_to_string("/proc/self/net/if_inet6") else {
        return false;
    };
    // Scope 10 is the host itself (::1).
    addresses.lines().any(|line| {
        line.split_whitespace()
            .nth(3)
            .is_some_and(|scope| scope != "10")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_one_line_that_says_why() {
        for (said, expected) in [
            (
                "netlink: Error: cache initialization failed: Operation not permitted\n",
                "cannot intercept traffic: capability NET_ADMIN is missing (nft: netlink: Error: cache initialization failed: Operation not permitted)",
            ),
            (
                "/dev/stdin:1:1-2: Error: Could not process rule: No such file or directory\nadd table inet osm\n^^^\n",
                "cannot intercept traffic: the kernel does not support a needed feature (nft: /dev/stdin:1:1-2: Error: Could not process rule: No such file or directory)",
            ),
            (
                "syntax error\n",
                "cannot intercept traffic: nft failed: syntax error",
            ),
            ("", "cannot intercept traffic: nft failed: exit status: 1"),
        ] {
            assert_eq!(
                classify("nft", said, &"exit status: 1", true).to_string(),
                expected
            );
        }
    }

    #[test]
    fn a_missing_capability_is_told_whatever_the_program_says() {
        let said =
            "iptables-restore v1.8.9 (legacy): iptables-restore: unable to initialize table 'nat'";
        let with = |admin| classify("iptables-restore", said, &"exit status: 2", admin);
        assert!(matches!(with(false), ApplyError::NotPermitted { .. }));
        assert!(matches!(with(true), ApplyError::Unsupported { .. }));
    }

    #[test]
    fn pod_ip_mode_without_an_address_is_refused() {
        let options = Options {
            local_proxy_mode: LocalProxyMode::PodIp,
            ..Options::default()
        };
        assert!(matches!(apply(&options), Err(ApplyError::NoPodIp)));
    }
}
