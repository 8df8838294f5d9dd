//! The osm command: install, namespaces, the control plane's roles, the embedded cluster, the demos.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Install and manage Osmium service meshes.
#[derive(Parser)]
#[command(name = "osm", version, propagate_version = true)]
struct Osm {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cluster on this machine, without Kubernetes
    #[command(subcommand)]
    Local(node::local::Command),
    /// Run the control plane: discovery, certificates, policy validation
    #[command(hide = true)]
    Controller(control::ControllerArgs),
    /// Run the admission webhook that gives pods their sidecars
    #[command(hide = true)]
    Injector(control::InjectorArgs),
    /// Install the mesh's kinds and its MeshConfig
    #[command(hide = true)]
    Bootstrap(control::BootstrapArgs),
}

fn main() -> ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(Osm::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        // Starts processes in namespaces of their own, so no runtime may have threads yet.
        Command::Local(command) => node::local::run(command),
        Command::Controller(args) => run_async(control::controller(args)),
        Command::Injector(args) => run_async(control::injector(args)),
        Command::Bootstrap(args) => run_async(control::bootstrap(args)),
    }
}

fn run_async(role: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(role)?;
    Ok(ExitCode::SUCCESS)
}
