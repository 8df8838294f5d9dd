//! The daemon: API server, controllers and node, the first process of the cluster's private namespaces.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use apiserver::ClientUser;
use nix::mount::{MsFlags, mount};
use tokio::signal::unix::{SignalKind, signal};

use super::outside;
use super::place::{Layout, executable};
use crate::{Node, NodeConfig};

/// Port of the API server on the node's addresses.
const API_PORT: u16 = 6443;
/// Container roots, volumes and emptyDirs.
const RUN_DIR: &str = "/run/osm";

/// Runs the cluster until told to end.
pub fn daemon(options: &super::Daemon) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("OSM_LOG")
                .unwrap_or_else(|_| "info,kube=warn,hickory_server=error".into()),
        )
        .with_ansi(false)
        .init();
    // A second call finds the same provider there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    let layout = Layout::of(&options.place)?;
    prepare()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(cluster(&layout, &options.name, listener))?;
    // Its threads wait for containers; they all end with this process.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Private places for what must vanish with the cluster.
fn prepare() -> anyhow::Result<()> {
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )
    .context("mount a private /run")?;
    for folder in ["/run/netns", "/run/lock", RUN_DIR] {
        fs::create_dir(folder).with_context(|| folder.to_owned())?;
    }
    nix::unistd::sethostname("node1").context("host name")?;
    // Every connection of every pod that ends here costs a descriptor: all that the machine allows.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    Ok(())
}

async fn cluster(layout: &Layout, name: &str, listener: TcpListener) -> anyhow::Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let config = NodeConfig::new(
        RUN_DIR.into(),
        layout.logs(),
        layout.images(),
        executable()?,
    );
    let node = Node::new(config.clone());
    let network = node.start_network().await?;

    let port = listener.local_addr()?.port();
    let mut listeners = vec![listener];
    for address in &config.addresses {
        let address = SocketAddr::new(*address, API_PORT);
        listeners
            .push(TcpListener::bind(address).with_context(|| format!("API server on {address}"))?);
    }
    let advertise = config.ipv4().map(|ip| SocketAddr::new(ip.into(), API_PORT));
    let server = apiserver::start(apiserver::Config {
        data_dir: layout.data(),
        listeners,
        extra_sans: vec!["localhost".to_owned(), config.name.clone()],
        service_cidrs: config.service_cidrs.clone(),
        advertise,
        backend: Some(node.clone()),
    })
    .await
    .context("API server")?;
    let inside = format!(
        "https://{}",
        advertise.context("node without IPv4 address")?
    );
    let node_client = client(&server.kubeconfig(&inside, &ClientUser::node(&config.name))?).await?;
    let admin_client = client(&server.kubeconfig(&inside, &ClientUser::admin())?).await?;
    let text = server.kubeconfig(&format!("https://127.0.0.1:{port}"), &ClientUser::admin())?;
    write_private(&layout.kubeconfig(), &named(&text, name))?;

    let controllers = controllers::run(
        admin_client,
        controllers::Config {
            root_ca_pem: server.ca_pem().to_owned(),
            api_service_ips: config
                .service_cidrs
                .iter()
                .filter_map(|c| c.hosts().next())
                .collect(),
            api_endpoints: advertise.into_iter().collect(),
        },
    );
    let result = tokio::select! {
        ended = controllers => ended.context("controllers"),
        ended = node.clone().run(node_client, network) => ended,
        ended = tell_ready(&node, layout) => ended,
        ended = outside::serve(&node, layout) => ended,
        _ = end.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    server.shutdown().await;
    result
}

/// Writes the ready file once, then waits for ever.
async fn tell_ready(node: &Arc<Node>, layout: &Layout) -> anyhow::Result<()> {
    node.ready().wait_for(|ready| *ready).await?;
    fs::write(layout.ready_file(), "")
        .with_context(|| layout.ready_file().display().to_string())?;
    std::future::pending().await
}

async fn client(kubeconfig: &str) -> anyhow::Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(
        kubeconfig,
        &kube::config::KubeConfigOptions::default(),
    )
    .await?;
    Ok(kube::Client::try_from(config)?)
}

/// The kubeconfig under the cluster's own name, so that several can be merged.
fn named(kubeconfig: &str, name: &str) -> String {
    let Ok(mut config) = kube::config::Kubeconfig::from_yaml(kubeconfig) else {
        return kubeconfig.to_owned();
    };
    for cluster in &mut config.clusters {
        name.clone_into(&mut cluster.name);
    }
    for user in &mut config.auth_infos {
        user.name = format!("{name}-admin");
    }
    for context in &mut config.contexts {
        name.clone_into(&mut context.name);
        if let Some(context) = &mut context.context {
            name.clone_into(&mut context.cluster);
            context.user = Some(format!("{name}-admin"));
        }
    }
    config.current_context = Some(name.to_owned());
    // JSON is YAML.
    serde_json::to_string_pretty(&config).unwrap_or_else(|_| kubeconfig.to_owned())
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        fs::rename(&draft, path)
    };
    write().with_context(|| path.display().to_string())
}
