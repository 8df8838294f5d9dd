//! `osm install`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use api::labels::DEFAULT_MESH_NAME;
use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::apply::{Applied, Applier, api_versions};
use crate::chart::{Chart, Release};
use crate::cluster::{connect, explain};
use crate::environment::Environment;
use crate::meshes::{self, Mesh};
use crate::rollout;

/// `osm install`.
#[derive(Args)]
pub struct InstallArgs {
    /// Folder of another chart than the built-in one
    #[arg(long, value_name = "FOLDER")]
    osm_chart_path: Option<PathBuf>,
    /// Name of the mesh
    #[arg(long, default_value = DEFAULT_MESH_NAME)]
    mesh_name: String,
    /// Refuse other meshes in the cluster
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    enforce_single_mesh: bool,
    /// How long to wait for the control plane to be ready
    #[arg(long, default_value = "5m", value_parser = api::duration::parse)]
    timeout: Duration,
    /// Chart values: key=value, several with commas (may be given again)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Remove everything again if the installation fails
    #[arg(long)]
    atomic: bool,
}

/// Runs it.
pub async fn run(args: InstallArgs, environment: &Environment) -> anyhow::Result<()> {
    if environment.is_managed() {
        bail!(
            "osm install is not available: the control plane is managed by the provider of the cluster"
        );
    }
    check_name("mesh name", &args.mesh_name)?;
    let namespace = &environment.osm_namespace;
    check_name("namespace", namespace)?;
    let chart = match &args.osm_chart_path {
        Some(folder) => Chart::from_folder(folder)?,
        None => Chart::embedded()?,
    };
    let forced = json!({ "osm": { "meshName": args.mesh_name, "enforceSingleMesh": args.enforce_single_mesh } });
    let values = chart.values(&args.set, forced)?;

    let client = connect().await?;
    let release = Release {
        name: args.mesh_name.clone(),
        namespace: namespace.clone(),
        api_versions: api_versions(&client).await?,
    };
    let objects = chart.render(&release, &values)?;
    refuse_second_mesh(
        &meshes::find(&client).await?,
        namespace,
        args.enforce_single_mesh,
    )?;

    let mut applied = Vec::new();
    let installed = install(&client, &objects, namespace, args.timeout, &mut applied).await;
    if let Err(error) = installed {
        if environment.verbose {
            for (pod, _, status) in rollout::pod_statuses(&client, namespace, "app")
                .await
                .unwrap_or_default()
            {
                eprintln!("Status for pod {pod} in namespace {namespace}:\n{status}");
            }
        }
        if args.atomic && !applied.is_empty() {
            roll_back(&client, &applied).await.map_err(|second| {
                anyhow!("{error}; and removing what was installed failed: {second}")
            })?;
            bail!("{error}; removed what was installed");
        }
        return Err(error);
    }
    println!(
        "OSM installed successfully in namespace [{namespace}] with mesh name [{}]",
        args.mesh_name
    );
    Ok(())
}

async fn install(
    client: &Client,
    objects: &[Value],
    namespace: &str,
    timeout: Duration,
    applied: &mut Vec<Applied>,
) -> anyhow::Result<()> {
    create_namespace(client, namespace).await?;
    let mut applier = Applier::new(client);
    for object in objects {
        applied.push(applier.apply(object).await?);
    }
    let deployments: Vec<String> = objects
        .iter()
        .filter(|object| object.get("kind").and_then(Value::as_str) == Some("Deployment"))
        .filter_map(|object| {
            object
                .pointer("/metadata/name")?
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    rollout::wait(client, namespace, &deployments, timeout).await
}

/// Deletes what was not there before, last first.
async fn roll_back(client: &Client, applied: &[Applied]) -> anyhow::Result<()> {
    for object in applied.iter().rev().filter(|object| object.is_new) {
        object.delete(client).await?;
    }
    Ok(())
}

async fn create_namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    // The label is Kubernetes' own from 1.21 on; the webhooks' selectors need it on 1.20 too.
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } } });
    let namespace: Namespace = serde_json::from_value(namespace)?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.create(&PostParams::default(), &namespace).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let existing = namespaces
                .get(name)
                .await
                .map_err(|error| anyhow!("cannot read Namespace {name}: {}", explain(&error)))?;
            if existing.metadata.deletion_timestamp.is_some() {
                bail!("Namespace {name} is being deleted; wait until it is gone");
            }
            Ok(())
        }
        Err(error) => bail!("cannot create Namespace {name}: {}", explain(&error)),
    }
}

/// What upstream's pre-install job checks, before anything is changed.
fn refuse_second_mesh(
    meshes: &[Mesh],
    namespace: &str,
    enforce_single_mesh: bool,
) -> anyhow::Result<()> {
    let describe = |meshes: &mut dyn Iterator<Item = &Mesh>| {
        let names: Vec<String> = meshes
            .map(|mesh| format!("namespace: {}, name: {}", mesh.namespace, mesh.name))
            .collect();
        names.join("; ")
    };
    let alone = describe(&mut meshes.iter().filter(|mesh| mesh.alone));
    if !alone.is_empty() {
        bail!(
            "Mesh(es) {alone} already enforce it is the only mesh in the cluster, cannot install new meshes"
        );
    }
    if enforce_single_mesh && !meshes.is_empty() {
        let all = describe(&mut meshes.iter());
        bail!(
            "Mesh(es) {all} already exist so a new mesh enforcing it is the only one cannot be installed"
        );
    }
    let here: Vec<&str> = meshes
        .iter()
        .filter(|mesh| mesh.namespace == namespace)
        .map(|mesh| mesh.name.as_str())
        .collect();
    if !here.is_empty() {
        bail!(
            "Namespace {namespace} already contains meshes [{}]",
            here.join(" ")
        );
    }
    Ok(())
}

/// An RFC 1123 label.
fn check_name(what: &str, name: &str) -> anyhow::Result<()> {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let inner = !name.starts_with('-') && !name.ends_with('-');
    if name.is_empty() || name.len() > 63 || !inner || !name.chars().all(known) {
        bail!(
            "invalid {what} {name:?}: must be an RFC 1123 label (lower case letters, digits and -, at most 63 characters)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(namespace: &str, name: &str, alone: bool) -> Mesh {
        Mesh {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            version: None,
            alone,
        }
    }

    #[test]
    fn inst_03_a_second_mesh_is_refused_with_upstreams_words() {
        for (meshes, enforce, expected) in [
            (vec![], true, None),
            (
                vec![mesh("osm-system", "osm", true)],
                false,
                Some(
                    "Mesh(es) namespace: osm-system, name: osm already enforce it is the only mesh in the cluster, cannot install new meshes",
                ),
            ),
            (
                vec![mesh("a", "m", false)],
                true,
                Some(
                    "Mesh(es) namespace: a, name: m already exist so a new mesh enforcing it is the only one cannot be installed",
                ),
            ),
            (
                vec![mesh("osm-system", "m", false)],
                false,
                Some("Namespace osm-system already contains meshes [m]"),
            ),
            (vec![mesh("a", "m", false)], false, None),
        ] {
            let refused = refuse_second_mesh(&meshes, "osm-system", enforce)
                .err()
                .map(|error| error.to_string());
            assert_eq!(refused.as_deref(), expected);
        }
    }

    #[test]
    fn inst_04_mesh_names_are_labels() {
        for good in ["osm", "my-mesh-2", "a"] {
            assert!(check_name("mesh name", good).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "Bad_Name!", "-a", "a-", "a.b", &long] {
            assert!(check_name("mesh name", bad).is_err(), "{bad}");
        }
    }
}
