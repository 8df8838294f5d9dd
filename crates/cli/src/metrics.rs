//! `osm metrics enable|disable`: whether Prometheus is to scrape the sidecars of namespaces, those that run included.

use anyhow::{anyhow, bail};
use api::labels::{
    METRICS, MONITORED_BY, PROMETHEUS_PATH, PROMETHEUS_PORT, PROMETHEUS_SCRAPE, PROXY_UUID,
};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{connect, explain, is_absent};
use crate::{meshes, namespace};

/// `osm metrics`.
#[derive(Subcommand)]
pub enum Command {
    /// Let Prometheus scrape the sidecars of namespaces
    Enable(NamespacesArgs),
    /// Let it no longer
    Disable(NamespacesArgs),
}

/// `osm metrics enable` and `osm metrics disable`.
#[derive(Args)]
pub struct NamespacesArgs {
    /// Namespaces, separated by commas
    #[arg(
        long = "namespace",
        required = true,
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    namespaces: Vec<String>,
}

/// Runs it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    let (on, args) = match command {
        Command::Enable(args) => (true, args),
        Command::Disable(args) => (false, args),
    };
    let client = connect().await?;
    for name in &args.namespaces {
        check(&client, name).await?;
        switch(&client, name, on).await?;
        let done = if on { "enabled" } else { "disabled" };
        println!("Metrics successfully {done} in namespace [{name}]");
    }
    Ok(())
}

/// Refuses namespaces that belong to no mesh of the cluster.
async fn check(client: &Client, name: &str) -> anyhow::Result<()> {
    let labels = namespace::get(client, name).await?.metadata.labels;
    match labels.unwrap_or_default().get(MONITORED_BY) {
        None => bail!(
            "Namespace [{name}] does not belong to a mesh, missing annotation {MONITORED_BY:?}"
        ),
        Some(mesh) if mesh.is_empty() => {
            bail!("Label {MONITORED_BY:?} on namespace {name:?} cannot be empty")
        }
        Some(mesh) => {
            let known = meshes::find(client).await?;
            if !known.iter().any(|known| known.name == *mesh) {
                bail!("Invalid mesh name {mesh:?} used with label {MONITORED_BY:?}");
            }
            Ok(())
        }
    }
}

async fn switch(client: &Client, name: &str, on: bool) -> anyhow::Result<()> {
    let annotation = if on { json!("enabled") } else { Value::Null };
    let patch = json!({ "metadata": { "annotations": { METRICS: annotation } } });
    namespace::change(client, name, patch)
        .await
        .map_err(|error| anyhow!("Could not change namespace [{name}]: {error}"))?;
    // New pods get it from the namespace; those that are there already must be told.
    let pods: Api<Pod> = Api::namespaced(client.clone(), name);
    let meshed = pods
        .list(&ListParams::default().labels(PROXY_UUID))
        .await
        .map_err(|error| {
            anyhow!(
                "cannot list pods of namespace [{name}]: {}",
                explain(&error)
            )
        })?;
    for pod in meshed {
        let pod = pod.name_any();
        let patch = Patch::Merge(annotations(on));
        match pods.patch(&pod, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            // Gone since the list was made.
            Err(error) if is_absent(&error) => {}
            Err(error) => bail!("cannot change pod {name}/{pod}: {}", explain(&error)),
        }
    }
    Ok(())
}

/// What the sidecar injector gives pods of such a namespace, or its removal.
fn annotations(on: bool) -> Value {
    let value = |text: &str| if on { json!(text) } else { Value::Null };
    json!({ "metadata": { "annotations": {
        PROMETHEUS_SCRAPE: value("true"),
        PROMETHEUS_PORT: value("15010"),
        PROMETHEUS_PATH: value("/stats/prometheus"),
    } } })
}
