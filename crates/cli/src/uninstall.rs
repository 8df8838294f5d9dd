//! `osm uninstall mesh`.
//!
//! Removes what the chart made (by its labels, so a Helm release too), what the control plane made for itself
//! (MeshConfig, webhook configurations) and takes the namespaces out of the mesh. The mesh's kinds and its CA stay, so
//! that policies survive and the next installation is trusted by running sidecars; `-a` removes them as well.

use std::io::{BufRead, Write};

use anyhow::bail;
use api::labels::{APP_INSTANCE, APP_NAME, APP_NAME_VALUE, DEFAULT_MESH_NAME, MESH_CONFIG_NAME};
use clap::{Args, Subcommand};
use kube::Client;

use crate::apply::{delete, delete_labelled};
use crate::cluster::connect;
use crate::environment::Environment;
use crate::meshes::{self, Mesh};
use crate::{mesh, namespace};

/// The mesh's kinds. Those of osm-edge stay out: this mesh does not install them.
const CRDS: [&str; 10] = [
    "egresses.policy.openservicemesh.io",
    "ingressbackends.policy.openservicemesh.io",
    "meshconfigs.config.openservicemesh.io",
    "meshrootcertificates.config.openservicemesh.io",
    "upstreamtrafficsettings.policy.openservicemesh.io",
    "retries.policy.openservicemesh.io",
    "httproutegroups.specs.smi-spec.io",
    "tcproutes.specs.smi-spec.io",
    "trafficsplits.split.smi-spec.io",
    "traffictargets.access.smi-spec.io",
];

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

/// `osm uninstall`.
#[derive(Subcommand)]
pub enum Command {
    /// Uninstall the control plane of a mesh
    Mesh(MeshArgs),
}

/// `osm uninstall mesh`.
#[derive(Args)]
pub struct MeshArgs {
    /// Name of the mesh [default: each mesh of the cluster is offered]
    #[arg(long, default_value = "")]
    mesh_name: String,
    /// Do not ask, and do not complain about what is not there
    #[arg(short, long)]
    force: bool,
    /// Delete the mesh's kinds with all their objects, the webhooks and the CA's secret as well
    #[arg(short = 'a', long)]
    delete_cluster_wide_resources: bool,
    /// Delete the control plane's namespace as well
    #[arg(long)]
    delete_namespace: bool,
    /// Name of the CA's secret
    #[arg(long, default_value = "osm-ca-bundle")]
    ca_bundle_secret_name: String,
    /// Taken for upstream's sake: the API server forwards the request, no local port is needed
    #[arg(short = 'p', long, default_value_t = 9091, hide = true)]
    local_port: u16,
}

/// Runs it.
pub async fn run(command: Command, environment: &Environment) -> anyhow::Result<()> {
    let Command::Mesh(args) = command;
    let client = connect().await?;
    let meshes = meshes::find(&client).await?;
    let chosen = choose(&client, &meshes, &args, environment).await?;
    if environment.is_managed() {
        println!("OSM CANNOT be uninstalled in a managed environment");
        if args.delete_namespace {
            println!("OSM namespace CANNOT be deleted in a managed environment");
        }
        return Ok(());
    }
    let mut failures = Vec::new();
    let mut declined = false;
    for mesh in chosen {
        let question = format!(
            "Uninstall OSM [mesh name: {}] in namespace [{}] and/or OSM resources? [y/n]: ",
            mesh.name, mesh.namespace
        );
        if !args.force && !confirm(&question).await? {
            declined = true;
            continue;
        }
        match remove_mesh(&client, mesh).await {
            Ok(()) => println!(
                "OSM [mesh name: {}] in namespace [{}] uninstalled",
                mesh.name, mesh.namespace
            ),
            Err(error) if args.delete_cluster_wide_resources || args.delete_namespace => println!(
                "Could not uninstall mesh name [{}] in namespace [{}]- {error} - continuing to deleteClusterWideResources and/or deleteNamespace",
                mesh.name, mesh.namespace
            ),
            Err(error) => bail!(
                "could not uninstall mesh name [{}] in namespace [{}]: {error}",
                mesh.name,
                mesh.namespace
            ),
        }
    }
    if declined {
        return Ok(());
    }
    if args.delete_cluster_wide_resources {
        let mut names: Vec<&str> = meshes.iter().map(|mesh| mesh.name.as_str()).collect();
        if !args.mesh_name.is_empty() {
            names = vec![&args.mesh_name];
        } else if names.is_empty() {
            // Webhooks that an earlier mesh left behind.
            names = vec![DEFAULT_MESH_NAME];
        }
        failures.extend(delete_cluster_wide(&client, &args, &names, environment).await?);
    }
    if args.delete_namespace {
        delete_namespace(&client, &environment.osm_namespace, &mut failures).await;
    }
    if failures.is_empty() {
        Ok(())
    } else {
        bail!(
            "Failed to completely delete the following OSM resource types: [{}]",
            failures.join(" ")
        )
    }
}

/// The meshes that the flags mean; prints what there is if they mean none.
async fn choose<'a>(
    client: &Client,
    meshes: &'a [Mesh],
    args: &MeshArgs,
    environment: &Environment,
) -> anyhow::Result<Vec<&'a Mesh>> {
    if meshes.is_empty() {
        println!("No OSM control planes found");
        return Ok(Vec::new());
    }
    let namespace = &environment.osm_namespace;
    if args.mesh_name.is_empty() {
        if args.force && meshes.len() > 1 {
            println!("List of meshes present in the cluster:");
            print!("{}", mesh::describe(client, meshes).await?);
            bail!("several meshes in the cluster: name one with --mesh-name");
        }
        return Ok(meshes.iter().collect());
    }
    let found: Vec<&Mesh> = meshes
        .iter()
        .filter(|mesh| mesh.name == args.mesh_name && mesh.namespace == *namespace)
        .collect();
    if found.is_empty() {
        println!(
            "Did not find mesh [{}] in namespace [{namespace}]",
            args.mesh_name
        );
        println!("List of meshes present in the cluster:");
        print!("{}", mesh::describe(client, meshes).await?);
        if !args.force && !args.delete_cluster_wide_resources && !args.delete_namespace {
            bail!(
                "No OSM control plane with mesh name [{}] found in namespace [{namespace}]",
                args.mesh_name
            );
        }
    }
    Ok(found)
}

async fn remove_mesh(client: &Client, mesh: &Mesh) -> anyhow::Result<()> {
    let Mesh {
        name, namespace, ..
    } = mesh;
    let selector = format!("{APP_NAME}={APP_NAME_VALUE},{APP_INSTANCE}={name}");
    // First what would go on working or creating, then what it has created.
    for path in [
        format!("/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"),
        format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
        format!("{ADMISSION}/mutatingwebhookconfigurations"),
        format!("{ADMISSION}/validatingwebhookconfigurations"),
        format!("/api/v1/namespaces/{namespace}/services"),
        format!("/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"),
        format!("/apis/policy/v1beta1/namespaces/{namespace}/poddisruptionbudgets"),
        format!("/api/v1/namespaces/{namespace}/configmaps"),
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"),
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(),
        "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
        format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
    ] {
        delete_labelled(client, &path, &selector).await?;
    }
    delete(client, &format!("/apis/config.openservicemesh.io/v1alpha2/namespaces/{namespace}/meshconfigs/{MESH_CONFIG_NAME}")).await?;
    // What Helm knows of a release that it installed.
    delete_labelled(
        client,
        &format!("/api/v1/namespaces/{namespace}/secrets"),
        &format!("owner=helm,name={name}"),
    )
    .await?;
    for joined in meshes::namespaces(client, Some(name)).await? {
        if let Some(joined) = joined.metadata.name {
            namespace::remove(client, &joined, name).await?;
        }
    }
    Ok(())
}

/// Deletes what all meshes of the cluster share; returns the kinds of which something could not be deleted.
async fn delete_cluster_wide(
    client: &Client,
    args: &MeshArgs,
    names: &[&str],
    environment: &Environment,
) -> anyhow::Result<Vec<String>> {
    let left = meshes::find(client).await?;
    if !left.is_empty() {
        println!("Deleting cluster resources will affect current mesh(es) in cluster:");
        for mesh in &left {
            println!("[{}] mesh in namespace [{}]", mesh.name, mesh.namespace);
        }
    }
    let mut failures = Vec::new();
    for crd in CRDS {
        let deleted = delete(
            client,
            &format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}"),
        )
        .await;
        report(
            "CRD",
            crd,
            deleted,
            "CustomResourceDefinitions",
            &mut failures,
        );
    }
    for mesh in names {
        delete_webhooks(client, mesh, &mut failures).await;
    }
    let (secret, namespace) = (&args.ca_bundle_secret_name, &environment.osm_namespace);
    match delete(
        client,
        &format!("/api/v1/namespaces/{namespace}/secrets/{secret}"),
    )
    .await
    {
        Ok(true) => println!("Successfully deleted OSM secret {secret} in namespace {namespace}"),
        Ok(false) => {
            println!("Ignoring - did not find OSM secret {secret} in namespace {namespace}")
        }
        Err(error) => report("secret", secret, Err(error), "Secrets", &mut failures),
    }
    Ok(failures)
}

async fn delete_webhooks(client: &Client, mesh: &str, failures: &mut Vec<String>) {
    for (kind, plural, app) in [
        (
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            "osm-injector",
        ),
        (
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "osm-controller",
        ),
    ] {
        let selector = format!("{APP_NAME}={APP_NAME_VALUE},{APP_INSTANCE}={mesh},app={app}");
        match delete_labelled(client, &format!("{ADMISSION}/{plural}"), &selector).await {
            Ok(names) if names.is_empty() => println!("Ignoring - did not find OSM {kind}"),
            Ok(names) => names
                .iter()
                .for_each(|name| println!("Successfully deleted OSM {kind}: {name}")),
            Err(error) => report(kind, mesh, Err(error), &format!("{kind}s"), failures),
        }
    }
}

fn report(
    kind: &str,
    name: &str,
    deleted: anyhow::Result<bool>,
    kinds: &str,
    failures: &mut Vec<String>,
) {
    match deleted {
        Ok(true) => println!("Successfully deleted OSM {kind}: {name}"),
        Ok(false) => println!("Ignoring - did not find OSM {kind}: {name}"),
        Err(error) => {
            println!("Failed to delete OSM {kind} {name}: {error}");
            if !failures.iter().any(|known| known == kinds) {
                failures.push(kinds.to_owned());
            }
        }
    }
}

async fn delete_namespace(client: &Client, namespace: &str, failures: &mut Vec<String>) {
    match delete(client, &format!("/api/v1/namespaces/{namespace}")).await {
        Ok(true) => println!("OSM namespace [{namespace}] deleted successfully"),
        Ok(false) => println!("OSM namespace [{namespace}] not found"),
        Err(error) => report("Namespace", namespace, Err(error), "Namespaces", failures),
    }
}

/// Asks on the terminal, three times at most.
async fn confirm(question: &str) -> anyhow::Result<bool> {
    for _ in 0..3 {
        print!("{question}");
        std::io::stdout().flush()?;
        // On a thread of its own: whoever presses Ctrl-C now wants to be heard.
        let read = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut answer)
                .map(|bytes| (bytes, answer))
        });
        let (bytes, answer) = read.await??;
        if bytes == 0 {
            bail!("no answer: standard input is at its end (use --force)");
        }
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => println!("Invalid input."),
        }
    }
    Ok(false)
}
