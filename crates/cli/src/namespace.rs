//! `osm namespace add|remove|ignore|list`.

use anyhow::{anyhow, bail};
use api::labels::{DEFAULT_MESH_NAME, IGNORE, METRICS, MONITORED_BY, SIDECAR_INJECTION};
use clap::{Args, Subcommand};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::cluster::{connect, explain, is_absent};
use crate::meshes::{self, CONTROLLER};
use crate::table;

/// `osm namespace`.
#[derive(Subcommand)]
pub enum Command {
    /// Add namespaces to a mesh
    Add(AddArgs),
    /// Remove a namespace from its mesh
    Remove(RemoveArgs),
    /// Keep namespaces out of every mesh
    Ignore(IgnoreArgs),
    /// List the namespaces of a mesh, or of all
    List(ListArgs),
}

/// `osm namespace add`.
#[derive(Args)]
pub struct AddArgs {
    /// Namespaces to add
    #[arg(required = true, value_name = "NAMESPACE")]
    namespaces: Vec<String>,
    /// Name of the mesh
    #[arg(long, default_value = DEFAULT_MESH_NAME)]
    mesh_name: String,
    /// Pods get no sidecar unless they ask for one themselves
    #[arg(long)]
    disable_sidecar_injection: bool,
}

/// `osm namespace remove`.
#[derive(Args)]
pub struct RemoveArgs {
    /// Namespace to remove
    namespace: String,
    /// Name of the mesh
    #[arg(long, default_value = DEFAULT_MESH_NAME)]
    mesh_name: String,
}

/// `osm namespace ignore`.
#[derive(Args)]
pub struct IgnoreArgs {
    /// Namespaces to ignore
    #[arg(required = true, value_name = "NAMESPACE")]
    namespaces: Vec<String>,
}

/// `osm namespace list`.
#[derive(Args)]
pub struct ListArgs {
    /// Name of the mesh
    mesh: Option<String>,
    /// Name of the mesh
    #[arg(long)]
    mesh_name: Option<String>,
}

/// Runs it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    let client = connect().await?;
    match command {
        Command::Add(args) => add(&client, args).await,
        Command::Remove(args) => remove(&client, &args.namespace, &args.mesh_name).await,
        Command::Ignore(args) => ignore(&client, args).await,
        Command::List(args) => {
            list(
                &client,
                args.mesh
                    .or(args.mesh_name)
                    .filter(|mesh| !mesh.is_empty())
                    .as_deref(),
            )
            .await
        }
    }
}

async fn add(client: &Client, args: AddArgs) -> anyhow::Result<()> {
    let mesh = &args.mesh_name;
    if !meshes::find(client)
        .await?
        .iter()
        .any(|known| known.name == *mesh)
    {
        bail!(
            "mesh [{mesh}] does not exist, please specify another mesh using --mesh-name or create a new mesh"
        );
    }
    for name in &args.namespaces {
        let namespace = get(client, name).await?;
        if has_controller(client, name).await? {
            println!(
                "Namespace [{name}] already has [osm-controller] installed and cannot be added to mesh [{mesh}]"
            );
            continue;
        }
        let labels = namespace.metadata.labels.unwrap_or_default();
        if labels.contains_key(IGNORE) {
            bail!("Cannot add ignored namespace");
        }
        if let Some(joined) = labels.get(MONITORED_BY) {
            println!("Namespace [{name}] has already been added to mesh [{joined}]");
            continue;
        }
        let injection = if args.disable_sidecar_injection {
            "disabled"
        } else {
            "enabled"
        };
        let patch = json!({ "metadata": { "labels": { MONITORED_BY: mesh }, "annotations": { SIDECAR_INJECTION: injection } } });
        change(client, name, patch).await.map_err(|error| {
            anyhow!("Could not add namespace [{name}] to mesh [{mesh}]: {error}")
        })?;
        println!("Namespace [{name}] successfully added to mesh [{mesh}]");
    }
    Ok(())
}

/// Takes a namespace out of a mesh; also what `uninstall` does with those it finds.
pub async fn remove(client: &Client, name: &str, mesh: &str) -> anyhow::Result<()> {
    let labels = get(client, name).await?.metadata.labels.unwrap_or_default();
    let Some(joined) = labels.get(MONITORED_BY) else {
        println!("Namespace [{name}] already does not belong to any mesh");
        return Ok(());
    };
    if joined != mesh {
        bail!(
            "Namespace belongs to mesh [{joined}], not mesh [{mesh}]. Please specify the correct mesh"
        );
    }
    let patch = json!({ "metadata": {
        "labels": { MONITORED_BY: null, IGNORE: null },
        "annotations": { SIDECAR_INJECTION: null, METRICS: null },
    } });
    change(client, name, patch)
        .await
        .map_err(|error| anyhow!("Could not remove label from namespace [{name}]: {error}"))?;
    println!("Namespace [{name}] successfully removed from mesh [{mesh}]");
    Ok(())
}

async fn ignore(client: &Client, args: IgnoreArgs) -> anyhow::Result<()> {
    for name in &args.namespaces {
        let patch = json!({ "metadata": { "labels": { IGNORE: "true" } } });
        change(client, name, patch).await.map_err(|error| {
            anyhow!("Failed to configure namespace [{name}] to be ignored: {error}")
        })?;
        println!("Successfully configured namespace [{name}] to be ignored");
    }
    Ok(())
}

async fn list(client: &Client, mesh: Option<&str>) -> anyhow::Result<()> {
    let namespaces = meshes::namespaces(client, mesh).await?;
    if namespaces.is_empty() {
        match mesh {
            Some(mesh) => println!("No namespaces in mesh [{mesh}]"),
            None => println!("No namespaces in any mesh"),
        }
        return Ok(());
    }
    let rows: Vec<[String; 3]> = namespaces.into_iter().map(row).collect();
    print!(
        "{}",
        table::render(["NAMESPACE", "MESH", "SIDECAR-INJECTION"], &rows)
    );
    Ok(())
}

fn row(namespace: Namespace) -> [String; 3] {
    let labels = namespace.metadata.labels.unwrap_or_default();
    let annotations = namespace.metadata.annotations.unwrap_or_default();
    let injection = if labels.contains_key(IGNORE) {
        "disabled (ignored)".to_owned()
    } else {
        annotations
            .get(SIDECAR_INJECTION)
            .cloned()
            .unwrap_or_else(|| "-".to_owned())
    };
    [
        namespace.metadata.name.unwrap_or_default(),
        labels.get(MONITORED_BY).cloned().unwrap_or_default(),
        injection,
    ]
}

/// A namespace by its name.
pub async fn get(client: &Client, name: &str) -> anyhow::Result<Namespace> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.get(name).await.map_err(|error| {
        if is_absent(&error) {
            anyhow!("namespaces {name:?} not found")
        } else {
            anyhow!("cannot read Namespace {name}: {}", explain(&error))
        }
    })
}

/// Merges a change into a namespace.
pub async fn change(client: &Client, name: &str, patch: Value) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let changed = namespaces
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    changed
        .map(|_| ())
        .map_err(|error| anyhow!(explain(&error)))
}

async fn has_controller(client: &Client, namespace: &str) -> anyhow::Result<bool> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let found = deployments
        .list(&ListParams::default().labels(CONTROLLER))
        .await;
    Ok(!found
        .map_err(|error| anyhow!("cannot list Deployments: {}", explain(&error)))?
        .items
        .is_empty())
}
