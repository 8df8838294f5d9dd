//! Runs the API server alone: `serve DATA_DIR [PORT]`; prints the path of the administrator's kubeconfig.

use std::path::PathBuf;

use apiserver::{ClientUser, Config};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let data_dir = PathBuf::from(
        arguments
            .next()
            .unwrap_or_else(|| "osm-apiserver".to_owned()),
    );
    let port: u16 = arguments.next().map_or(Ok(0), |p| p.parse())?;
    std::fs::create_dir_all(&data_dir)?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let handle = apiserver::start(Config {
        data_dir: data_dir.clone(),
        listeners: vec![listener],
        extra_sans: Vec::new(),
        service_cidrs: vec!["10.96.0.0/16".parse()?, "fd96::/112".parse()?],
        advertise: None,
        backend: None,
    })
    .await?;
    let address = handle
        .addresses()
        .first()
        .copied()
        .ok_or_else(|| anyhow::anyhow!("no address"))?;
    let kubeconfig = data_dir.join("kubeconfig");
    std::fs::write(
        &kubeconfig,
        handle.kubeconfig(&format!("https://{address}"), &ClientUser::admin())?,
    )?;
    println!("{}", kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    handle.shutdown().await;
    Ok(())
}
