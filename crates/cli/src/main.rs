//! The osm command: install, namespaces, the control plane's roles, the embedded cluster, the demos.

mod apply;
mod chart;
mod cluster;
mod demo;
mod environment;
mod install;
mod mesh;
mod meshes;
mod metrics;
mod namespace;
mod pods;
mod policy;
mod problems;
mod proxy;
mod rollout;
mod table;
mod uninstall;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use environment::{Environment, GlobalArgs};

/// Install and manage Osmium service meshes
#[derive(Parser)]
#[command(name = "osm", version, disable_help_subcommand = false)]
struct Osm {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the control plane into the cluster
    Install(install::InstallArgs),
    /// Remove the control plane from the cluster
    #[command(subcommand, alias = "delete", alias = "del")]
    Uninstall(uninstall::Command),
    /// Meshes of the cluster
    #[command(subcommand)]
    Mesh(mesh::Command),
    /// Namespaces of a mesh
    #[command(subcommand, visible_alias = "ns")]
    Namespace(namespace::Command),
    /// Prometheus' scraping of a namespace's sidecars
    #[command(subcommand)]
    Metrics(metrics::Command),
    /// What policies allow
    #[command(subcommand)]
    Policy(policy::Command),
    /// The administration of a pod's sidecar
    #[command(subcommand)]
    Proxy(proxy::Command),
    /// Versions of this program and of the control planes
    Version(version::VersionArgs),
    /// Settings of this program
    Env,
    /// Run a cluster on this machine, without Kubernetes
    #[command(subcommand)]
    Local(node::local::Command),
    /// Shows of what the mesh does, on a cluster of its own
    Demo(demo::Args),
    #[command(flatten)]
    Role(Box<Role>),
}

/// The programs of the control plane's pods. Their flags are their own: `--osm-namespace` is one of them too.
#[derive(Subcommand)]
enum Role {
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
    let osm = match Osm::try_parse() {
        Ok(osm) => osm,
        Err(answer) => return refuse(&answer),
    };
    match run(osm) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints help, or what is wrong with the command line: `Error: …` and status 1, as for every other error.
fn refuse(answer: &clap::Error) -> ExitCode {
    if !answer.use_stderr() {
        let _ = answer.print();
        return ExitCode::SUCCESS;
    }
    let text = answer.to_string();
    match text.strip_prefix("error: ") {
        // The usage that follows says nothing that --help does not.
        Some(error) => eprintln!("Error: {}", error.split("\n\n").next().unwrap_or(error)),
        None => eprint!("{text}"),
    }
    ExitCode::FAILURE
}

fn run(osm: Osm) -> anyhow::Result<ExitCode> {
    match osm.command {
        // Starts processes in namespaces of their own, so no runtime may have threads yet.
        Command::Local(command) => node::local::run(command),
        // These end by SIGTERM, in their own way.
        Command::Role(role) => block_on(run_role(*role)).map(|()| ExitCode::SUCCESS),
        // Cleans up after itself when interrupted.
        Command::Demo(args) => block_on(demo::run(args)),
        command => {
            let environment = Environment::new(&osm.global)?;
            block_on(interruptible(run_command(command, &environment)))
        }
    }
}

async fn run_command(command: Command, environment: &Environment) -> anyhow::Result<ExitCode> {
    match command {
        Command::Install(args) => install::run(args, environment).await?,
        Command::Uninstall(command) => uninstall::run(command, environment).await?,
        Command::Mesh(command) => mesh::run(command).await?,
        Command::Namespace(command) => namespace::run(command).await?,
        Command::Metrics(command) => metrics::run(command).await?,
        Command::Policy(command) => policy::run(command, environment).await?,
        Command::Proxy(command) => proxy::run(command).await?,
        Command::Version(args) => version::run(args).await?,
        Command::Env => environment.print()?,
        Command::Local(_) | Command::Demo(_) | Command::Role(_) => {
            unreachable!("dispatched without an environment")
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_role(role: Role) -> anyhow::Result<()> {
    match role {
        Role::Controller(args) => control::controller(args).await,
        Role::Injector(args) => control::injector(args).await,
        Role::Bootstrap(args) => control::bootstrap(args).await,
    }
}

/// Ends with the shell's code for an interrupted program when the user presses Ctrl-C.
async fn interruptible(
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        result = command => result,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("Error: interrupted");
            Ok(ExitCode::from(130))
        }
    }
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(future);
    // A thread may still wait for an answer on the terminal that nobody will give.
    runtime.shutdown_background();
    result
}
