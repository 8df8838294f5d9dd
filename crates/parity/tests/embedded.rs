//! The embedded API server, with its controllers, answers every exchange as the recorded Kubernetes did

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};
use apiserver::{ClientUser, ServerHandle};
use kube::config::{KubeConfigOptions, Kubeconfig};
use parity::{Outcome, Player, golden, judge, load};
use tokio::task::JoinHandle;

/// An API server on a free port of the loopback interface, and its controllers; ended when dropped.
struct Embedded {
    kubeconfig: Kubeconfig,
    controllers: JoinHandle<()>,
    _server: ServerHandle,
    _data: tempfile::TempDir,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

async fn start() -> Result<Embedded> {
    let data = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = apiserver::start(apiserver::Config {
        data_dir: data.path().to_owned(),
        listeners: vec![listener],
        extra_sans: Vec::new(),
        service_cidrs: vec!["10.96.0.0/16".parse()?, "fd96::/112".parse()?],
        advertise: Some("172.31.255.1:6443".parse()?),
        backend: None,
    })
    .await?;
    let text = server.kubeconfig(&format!("https://{address}"), &ClientUser::admin())?;
    let kubeconfig = Kubeconfig::from_yaml(&text)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default())
            .await?;
    let client = kube::Client::try_from(config)?;
    let own = controllers::Config {
        root_ca_pem: server.ca_pem().to_owned(),
        api_service_ips: vec!["10.96.0.1".parse()?],
        api_endpoints: vec!["172.31.255.1:6443".parse()?],
    };
    let controllers = tokio::spawn(async move {
        if let Err(error) = controllers::run(client, own).await {
            eprintln!("controllers: {error}");
        }
    });
    Ok(Embedded {
        kubeconfig,
        controllers,
        _server: server,
        _data: data,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_answers_as_kubernetes_does() -> Result<()> {
    // Another provider may be there already: then it serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let embedded = start().await?;
    let player = Player::with(embedded.kubeconfig.clone()).await?;
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut failures = Vec::new();
    for (file, mut exchanges) in load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("exchanges"))? {
        let golden = golden::read(&file)?;
        exchanges.retain(|exchange| file.contains(&only) || exchange.name.contains(&only));
        for (exchange, got) in exchanges
            .iter()
            .zip(player.play_all(&file, &exchanges).await)
        {
            let expected = golden
                .get(&exchange.name)
                .with_context(|| format!("{file}: {:?} is not recorded", exchange.name))?;
            let lines = match got {
                Ok(got) => match judge(exchange, expected, &got) {
                    Outcome::Same | Outcome::Explained(_) => continue,
                    Outcome::Different(lines) => lines,
                    Outcome::Outdated(reason) => vec![format!(
                        "answers alike, so the reason is out of date: {reason}"
                    )],
                },
                Err(_) if exchange.differs.is_some() => continue,
                Err(error) => vec![format!("{error:#}")],
            };
            failures.push(format!(
                "{file}: {}\n    {}",
                exchange.name,
                lines.join("\n    ")
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} exchanges differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}
