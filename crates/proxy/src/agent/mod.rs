//! What a stock Envoy needs to be the sidecar: `osm-proxy agent` is the first process of its container and Envoy's parent.
//!
//! It makes the key and gets the certificate as our own proxy does, hands both to Envoy by SDS over a Unix socket that
//! only this container sees, writes Envoy's bootstrap, answers the kubelet's probes and drains Envoy before it ends.
//! Envoy itself talks to the control plane, with that certificate: no byte of ADS or of traffic passes the agent.

mod bootstrap;
mod envoy;
mod secrets;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use tokio::runtime::Builder as RuntimeBuilder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::control_plane::ControlPlane;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::{identity, probes, run};

use envoy::Envoy;
use secrets::Secrets;

/// The socket's name in the agent's folder.
const SOCKET: &str = "agent.sock";
/// How often a draining Envoy is asked what is unfinished.
const POLL: Duration = Duration::from_millis(100);

/// Flags and environment of `osm-proxy agent`: those of `osm-proxy run`, and Envoy's.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// What both classes of sidecars are told.
    #[command(flatten)]
    pub settings: Settings,
    /// Envoy, as a path or a name in PATH.
    #[arg(long, env = "OSM_ENVOY", default_value = "envoy")]
    pub envoy: PathBuf,
    /// Where the socket of certificates is; nobody but the sidecar's container may see it.
    #[arg(long, env = "OSM_AGENT_FOLDER", default_value = "/var/run/osm")]
    pub folder: PathBuf,
    /// Further arguments for Envoy.
    #[arg(last = true)]
    pub arguments: Vec<OsString>,
}

/// Runs Envoy as the sidecar until the pod ends.
pub fn run(args: &AgentArgs) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = args.settings.clone().complete()?;
    ensure!(
        settings.bootstrap.is_none(),
        "--config-path: Envoy's bootstrap is the agent's to make"
    );
    // Envoy inherits it.
    run::descriptors();
    let runtime = RuntimeBuilder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(args, settings))
}

async fn supervise(args: &AgentArgs, settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Probes first: the kubelet asks whether or not the control plane is there.
    probes::serve(settings.probes()?)?;
    let socket = args.folder.join(SOCKET);
    let (sender, mut certificate) = watch::channel(None);
    let serving = Secrets::new(&settings, certificate.clone()).serve(&socket)?;
    let mut serving = tokio::spawn(serving);
    let plane = ControlPlane::new(&settings, Arc::default())?;
    let stats = Stats::default();
    let name = settings.own_certificate();
    let keeping = identity::keep(&settings, &plane, &stats, |issued| {
        sender.send_replace(Some(secrets::snapshot(&name, issued)));
        Ok(())
    });
    tokio::pin!(keeping);
    // Without a certificate Envoy could only knock at the control plane, with ever longer waits in between.
    tokio::select! {
        changed = certificate.wait_for(Option::is_some) => drop(changed?),
        () = &mut keeping => anyhow::bail!("the certificate task ended"),
        ended = &mut serving => anyhow::bail!("the certificate socket: {ended:?}"),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    let bootstrap = bootstrap::bootstrap(&settings, &socket)?;
    let mut envoy = Envoy::start(args, &bootstrap)?;
    info!(node = settings.node().id, "Envoy starts");
    tokio::select! {
        ended = envoy.ended() => anyhow::bail!("Envoy ended: {}", ended?),
        () = &mut keeping => anyhow::bail!("the certificate task ended"),
        ended = &mut serving => anyhow::bail!("the certificate socket: {ended:?}"),
        _ = terminate.recv() => info!("told to stop"),
        _ = interrupt.recv() => info!("interrupted"),
    }
    tokio::select! {
        () = drain(&mut envoy, &settings) => {}
        // Certificates go on changing meanwhile.
        () = &mut keeping => {}
        _ = terminate.recv() => warn!("told to stop again: stops at once"),
        _ = interrupt.recv() => warn!("interrupted again: stops at once"),
    }
    envoy.stop().await.context("stopping Envoy")
}

/// As our own proxy drains: for the grace, clients are told to go elsewhere and new connections are still taken; then
/// the ports are closed, and what is open has the rest of the time.
async fn drain(envoy: &mut Envoy, settings: &Settings) {
    let end = tokio::time::Instant::now() + settings.drain();
    // From here on HTTP answers carry `connection: close`, or GOAWAY precedes them.
    if let Err(error) = envoy.ask("POST", "/healthcheck/fail").await {
        warn!(error = format!("{error:#}"), "Envoy does not drain");
        return;
    }
    tokio::time::sleep(settings.grace()).await;
    if let Err(error) = envoy.ask("POST", "/drain_listeners").await {
        warn!(error = format!("{error:#}"), "Envoy's listeners stay open");
    }
    while tokio::time::Instant::now() < end {
        match envoy.unfinished().await {
            Ok(0) => {
                info!("all requests and connections are done");
                return;
            }
            Ok(_) => tokio::time::sleep(POLL).await,
            Err(error) => {
                warn!(
                    error = format!("{error:#}"),
                    "Envoy does not say what is unfinished"
                );
                return;
            }
        }
    }
    warn!("time to drain is up");
}
