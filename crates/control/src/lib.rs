//! The control plane's programs: informers, index, ADS server, certificate issuing, webhooks, bootstrap.
//!
//! Policy is not decided here: objects go into `families`, come out as a `model::Mesh`, and leave as
//! xDS resources. This crate is the part that has sockets, clocks and a Kubernetes client.

mod args;

pub use args::{BootstrapArgs, CommonArgs, ControllerArgs, InjectorArgs};

/// Runs `osm controller` until SIGTERM.
pub async fn controller(args: ControllerArgs) -> anyhow::Result<()> {
    anyhow::bail!(
        "controller of mesh {}: not built yet",
        args.common.mesh_name
    )
}

/// Runs `osm injector` until SIGTERM.
pub async fn injector(args: InjectorArgs) -> anyhow::Result<()> {
    anyhow::bail!("injector of mesh {}: not built yet", args.common.mesh_name)
}

/// Runs `osm bootstrap` until SIGTERM.
pub async fn bootstrap(args: BootstrapArgs) -> anyhow::Result<()> {
    anyhow::bail!("bootstrap of mesh {}: not built yet", args.common.mesh_name)
}
