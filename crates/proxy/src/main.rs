//! `osm-proxy`: the sidecar (`run`), what a stock Envoy needs to be one (`agent`), the pod's interception rules
//! (`init`), its health (`healthcheck`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use proxy::agent::{self, AgentArgs};
use proxy::config::support;
use proxy::settings::{RunMode, Settings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// The sidecar proxy of the mesh.
#[derive(Debug, Parser)]
#[command(name = "osm-proxy", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the pod's traffic.
    Run(Box<Settings>),
    /// Makes a stock Envoy the sidecar: key and certificate, bootstrap, probes, draining.
    Agent(Box<AgentArgs>),
    /// Puts the pod's interception rules in place.
    Init(Box<Init>),
    /// Exits 0 if the proxy of this pod is ready.
    Healthcheck {
        /// Where its administration listens.
        #[arg(long, env = "OSM_PROXY_ADMIN", default_value = "127.0.0.1:15000")]
        admin: SocketAddr,
    },
    /// Prints why requests and connections are refused or ended, as Markdown.
    #[command(hide = true)]
    Reasons,
    /// Prints which xDS fields are honoured, ignored and refused, as Markdown.
    #[command(hide = true)]
    XdsSupport,
}

#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    options: intercept::Options,
    /// Puts this program into a folder, for a container whose image does not hold it.
    #[arg(long)]
    install_into: Option<PathBuf>,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse_from(arguments())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, causes included.
            let _ = writeln!(std::io::stderr(), "osm-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The arguments, with `run` where no command is named.
fn arguments() -> Vec<std::ffi::OsString> {
    let mut all: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let first = all.get(1).and_then(|first| first.to_str());
    let is_command = first.is_some_and(|first| {
        matches!(
            first,
            "run"
                | "agent"
                | "init"
                | "healthcheck"
                | "reasons"
                | "xds-support"
                | "help"
                | "--help"
                | "-h"
                | "--version"
                | "-V"
        )
    });
    if !is_command {
        all.insert(1.min(all.len()), "run".into());
    }
    all
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(settings) => {
            let set_level = logging(&settings.log_level)?;
            let settings = settings.complete()?;
            if settings.mode == RunMode::Validate {
                proxy::run::validate(&settings)?;
                writeln!(std::io::stdout(), "configuration OK")?;
                return Ok(());
            }
            proxy::run::run(settings, set_level)
        }
        Command::Agent(args) => {
            let _ = logging(&args.settings.log_level)?;
            agent::run(&args)
        }
        Command::Init(init) => {
            if let Some(folder) = &init.install_into {
                install(folder)?;
            }
            let backend = intercept::apply(&init.options)?;
            writeln!(
                std::io::stdout(),
                "interception rules are in place ({backend:?})"
            )?;
            Ok(())
        }
        Command::Healthcheck { admin } => healthcheck(admin),
        Command::Reasons => Ok(std::io::stdout().write_all(proxy::reason::markdown().as_bytes())?),
        Command::XdsSupport => Ok(std::io::stdout().write_all(support::markdown().as_bytes())?),
    }
}

/// Copies this program; under another name first, for the folder may outlive a broken attempt.
fn install(folder: &Path) -> anyhow::Result<()> {
    let (draft, program) = (folder.join("osm-proxy.new"), folder.join("osm-proxy"));
    std::env::current_exe()
        .and_then(|this| std::fs::copy(this, &draft))
        .and_then(|_| std::fs::rename(&draft, &program))
        .with_context(|| format!("--install-into {}", folder.display()))
}

/// Logs to standard error: standard output is the access log's.
fn logging(level: &str) -> anyhow::Result<proxy::run::SetLevel> {
    let level = match level {
        // Envoy's names of the same levels.
        "warning" => "warn",
        "critical" => "error",
        level => level,
    };
    let filter = EnvFilter::try_new(level).with_context(|| format!("--log-level {level:?}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    Ok(Arc::new(move |level: &str| {
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    }))
}

fn healthcheck(admin: SocketAddr) -> anyhow::Result<()> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&admin, limit)
        .with_context(|| format!("no proxy at {admin}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    anyhow::ensure!(status.contains(" 200 "), "not ready: {status}");
    Ok(())
}
