//! Runs the controllers against the cluster of KUBECONFIG, in place of its own: a real Kubernetes with these switched off

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};

#[tokio::main]
async fn main() -> Result<()> {
    // Another provider may be there already: then it serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let config =
        kube::Config::from_custom_kubeconfig(Kubeconfig::read()?, &KubeConfigOptions::default())
            .await?;
    let path = std::env::args()
        .nth(1)
        .context("usage: controllers CA-FILE")?;
    let root_ca_pem = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let client = kube::Client::try_from(config)?;
    // The server keeps its own Service.
    let own = controllers::Config {
        root_ca_pem,
        api_service_ips: Vec::new(),
        api_endpoints: Vec::new(),
    };
    Ok(controllers::run(client, own).await?)
}
