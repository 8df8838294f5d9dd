//! `osm local status`: what runs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;

use super::Place;
use super::place::Layout;

/// The API of a healthy cluster answers in milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

/// Prints node, API address and pods; exit 1 if no cluster runs.
pub fn status(place: &Place) -> anyhow::Result<ExitCode> {
    let layout = Layout::of(place)?;
    let Some(state) = layout.running() else {
        println!("No cluster is running in {}", layout.dir.display());
        return Ok(ExitCode::FAILURE);
    };
    println!("Cluster:    {} ({})", state.name, layout.dir.display());
    println!("API:        https://127.0.0.1:{}", state.port);
    println!("Kubeconfig: {}", layout.kubeconfig().display());
    println!(
        "Processes:  supervisor {}, daemon {}, started again {} time(s)",
        state.supervisor.pid,
        state
            .daemon
            .map_or_else(|| "starting".to_owned(), |d| d.pid.to_string()),
        state.restarts
    );
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::timeout(DEADLINE, objects(&layout))
            .await
            .context("the API does not answer")?
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn objects(layout: &Layout) -> anyhow::Result<()> {
    let kubeconfig = kube::config::Kubeconfig::read_from(layout.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(
        kubeconfig,
        &kube::config::KubeConfigOptions::default(),
    )
    .await?;
    let client = kube::Client::try_from(config)?;
    for node in Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await?
    {
        let ready = node
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .any(|c| c.type_ == "Ready" && c.status == "True");
        println!(
            "Node:       {} {}",
            node.metadata.name.unwrap_or_default(),
            if ready { "Ready" } else { "NotReady" }
        );
    }
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await?;
    let ready = pods.iter().filter(|p| {
        p.status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .any(|c| c.type_ == "Ready" && c.status == "True")
    });
    println!(
        "Pods:       {} of {} ready",
        ready.count(),
        pods.items.len()
    );
    Ok(())
}
