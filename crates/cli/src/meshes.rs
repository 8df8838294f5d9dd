//! The meshes of a cluster. A mesh is a Deployment with the label `app=osm-controller`; its name is in a label too.

use std::collections::BTreeMap;

use anyhow::anyhow;
use api::labels::{APP_VERSION, MONITORED_BY};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::cluster::{ask_pod, explain, running_pods};

/// Selects what belongs to the controller.
pub const CONTROLLER: &str = "app=osm-controller";
/// Label of the controller's Deployment with the mesh's name.
pub const MESH_NAME_LABEL: &str = "meshName";
/// Label of the controller's Deployment that forbids other meshes.
const ENFORCE_SINGLE_MESH_LABEL: &str = "enforceSingleMesh";
/// What stands where something is not known.
pub const UNKNOWN: &str = "Unknown";
/// Port of the control plane's programs for health, metrics and version.
const HTTP_PORT: u16 = 9091;

/// One mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Its name.
    pub name: String,
    /// Namespace of its control plane.
    pub namespace: String,
    /// Version of its control plane, as its label says.
    pub version: Option<String>,
    /// It forbids other meshes in the cluster.
    pub alone: bool,
}

/// All meshes of the cluster, by namespace.
pub async fn find(client: &Client) -> anyhow::Result<Vec<Mesh>> {
    let deployments: Api<Deployment> = Api::all(client.clone());
    let controllers = deployments
        .list(&ListParams::default().labels(CONTROLLER))
        .await;
    let controllers =
        controllers.map_err(|error| anyhow!("cannot list Deployments: {}", explain(&error)))?;
    let mut meshes: Vec<Mesh> = controllers
        .into_iter()
        .map(|deployment| {
            let labels = deployment.metadata.labels.unwrap_or_default();
            Mesh {
                name: labels.get(MESH_NAME_LABEL).cloned().unwrap_or_default(),
                namespace: deployment.metadata.namespace.unwrap_or_default(),
                version: labels.get(APP_VERSION).cloned(),
                alone: labels
                    .get(ENFORCE_SINGLE_MESH_LABEL)
                    .is_some_and(|value| value == "true"),
            }
        })
        .collect();
    meshes.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(meshes)
}

/// The namespaces that belong to a mesh (or to any), with all their settings.
pub async fn namespaces(client: &Client, mesh: Option<&str>) -> anyhow::Result<Vec<Namespace>> {
    let selector = mesh.map_or(MONITORED_BY.to_owned(), |mesh| {
        format!("{MONITORED_BY}={mesh}")
    });
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces
        .list(&ListParams::default().labels(&selector))
        .await;
    Ok(found
        .map_err(|error| anyhow!("cannot list Namespaces: {}", explain(&error)))?
        .items)
}

/// The controller's answer on its HTTP port; an error if no controller pod answers.
pub async fn ask_controller(client: &Client, mesh: &Mesh, path: &str) -> anyhow::Result<String> {
    let mut last = anyhow!("no osm-controller pod runs in namespace {}", mesh.namespace);
    for pod in running_pods(client, &mesh.namespace, CONTROLLER).await? {
        match ask_pod(client, &pod, HTTP_PORT, path).await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The SMI versions a mesh supports, as `mesh list` prints them.
pub async fn smi_versions(client: &Client, mesh: &Mesh) -> anyhow::Result<String> {
    let answer = ask_controller(client, mesh, "/smi/version").await?;
    let versions: BTreeMap<String, String> = serde_json::from_str(&answer)?;
    // `specs.smi-spec.io/v1alpha4` is printed as `v1alpha4`.
    let printed = versions
        .iter()
        .map(|(kind, version)| format!("{kind}:{}", version.rsplit('/').next().unwrap_or(version)));
    Ok(printed.collect::<Vec<_>>().join(","))
}
