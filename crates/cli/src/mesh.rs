//! `osm mesh list` and `osm mesh problems`.

use clap::{Args, Subcommand};
use kube::Client;

use crate::cluster::connect;
use crate::meshes::{self, Mesh, UNKNOWN};
use crate::{problems, table};

/// `osm mesh`.
#[derive(Subcommand)]
pub enum Command {
    /// List the meshes of the cluster
    List(ListArgs),
    /// List the policies that have no effect, or not all of it, and why
    Problems(problems::ProblemsArgs),
}

/// `osm mesh list`.
#[derive(Args)]
pub struct ListArgs {
    /// Taken for upstream's sake: the API server forwards the request, no local port is needed
    #[arg(short = 'p', long, default_value_t = 9091, hide = true)]
    local_port: u16,
}

/// Runs it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    let ListArgs { local_port: _ } = match command {
        Command::List(args) => args,
        Command::Problems(args) => return problems::run(args).await,
    };
    let client = connect().await?;
    let meshes = meshes::find(&client).await?;
    if meshes.is_empty() {
        println!("No osm mesh control planes found");
        return Ok(());
    }
    print!("{}", describe(&client, &meshes).await?);
    println!(
        "\nTo list the OSM controller pods for a mesh, please run the following command passing in the mesh's namespace"
    );
    println!("\tkubectl get pods -n <osm-mesh-namespace> -l app=osm-controller");
    Ok(())
}

/// The two tables about meshes.
pub async fn describe(client: &Client, meshes: &[Mesh]) -> anyhow::Result<String> {
    let mut about = Vec::new();
    let mut smi = Vec::new();
    for mesh in meshes {
        let namespaces = meshes::namespaces(client, Some(&mesh.name)).await?;
        let names: Vec<String> = namespaces
            .into_iter()
            .filter_map(|namespace| namespace.metadata.name)
            .collect();
        let version = mesh.version.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        about.push([
            mesh.name.clone(),
            mesh.namespace.clone(),
            version,
            names.join(","),
        ]);
        let versions = meshes::smi_versions(client, mesh)
            .await
            .unwrap_or_else(|_| UNKNOWN.to_owned());
        smi.push([mesh.name.clone(), mesh.namespace.clone(), versions]);
    }
    let about = table::render(
        ["MESH NAME", "MESH NAMESPACE", "VERSION", "ADDED NAMESPACES"],
        &about,
    );
    let smi = table::render(["MESH NAME", "MESH NAMESPACE", "SMI SUPPORTED"], &smi);
    Ok(format!("\n{about}\n{smi}"))
}
