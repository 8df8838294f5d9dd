//! The control plane's programs outside a cluster, against the cluster of `KUBECONFIG`.

use clap::{Parser, Subcommand};
use control::{BootstrapArgs, ControllerArgs, InjectorArgs};

#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    program: Program,
}

#[derive(Subcommand)]
enum Program {
    Controller(ControllerArgs),
    Injector(InjectorArgs),
    Bootstrap(BootstrapArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Command::parse().program {
        Program::Controller(args) => control::controller(args).await,
        Program::Injector(args) => control::injector(args).await,
        Program::Bootstrap(args) => control::bootstrap(args).await,
    }
}
