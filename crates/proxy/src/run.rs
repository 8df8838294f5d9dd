//! Starting and stopping: threads, signals, the order of things.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use envoy_types::pb::envoy::config::core::v3::Node;
use parking_lot::Mutex;
use tokio::runtime::{Builder as RuntimeBuilder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use xds::client::{Limits, Machine, Mode};

use crate::access::AccessLog;
use crate::admin::{self, Admin};
use crate::ads::Ads;
use crate::config::ConfigParser;
use crate::control_plane::ControlPlane;
use crate::dns::Lookups;
use crate::listeners::Listeners;
use crate::settings::{Settings, XdsMode};
use crate::snapshot::Builder;
use crate::stats::Stats;
use crate::tls::OwnCertificate;
use crate::worker::Shared;
use crate::{identity, probes};

/// Descriptors kept for the control plane, the administration, listeners and the log.
const RESERVED: usize = 100;
/// When the system does not tell its limit: POSIX' customary one.
const DESCRIPTORS: usize = 1024;

/// Changes the log level.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Runs the proxy until it is told to stop.
pub fn run(settings: Settings, set_level: SetLevel) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stats = Arc::new(Stats::default());
    let log = if settings.no_access_log {
        AccessLog::off(stats.clone())
    } else {
        AccessLog::stdout(stats.clone())?
    };
    let limit = match settings.max_connections {
        // A proxied connection takes two descriptors.
        0 => descriptors().saturating_sub(RESERVED) / 2,
        limit => limit,
    };
    let own = Arc::new(OwnCertificate::default());
    let shared = Arc::new(Shared::new(stats, log, own, limit.max(1)));
    let (stop, stopped) = watch::channel(false);
    let workers = (0..settings.workers)
        .map(|index| worker(index, stopped.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    info!(
        node = settings.node_id(),
        workers = workers.len(),
        connections = limit,
        "proxy starts"
    );
    let control = RuntimeBuilder::new_current_thread().enable_all().build()?;
    let outcome = control.block_on(supervise(settings, set_level, shared, workers));
    drop(stop);
    outcome
}

/// A worker: an event loop on a thread of its own.
fn worker(index: u16, mut stopped: watch::Receiver<bool>) -> anyhow::Result<Handle> {
    let runtime = RuntimeBuilder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || runtime.block_on(async move { while stopped.changed().await.is_ok() {} }))
        .context("starting a worker thread")?;
    Ok(handle)
}

async fn supervise(
    settings: Settings,
    set_level: SetLevel,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (quit, mut quitting) = watch::channel(false);
    // Probes first: the kubelet asks whether or not the control plane is there.
    probes::serve(settings.probes()?)?;
    let mode = match settings.xds_mode {
        XdsMode::Delta => Mode::Delta,
        XdsMode::Sotw => Mode::StateOfTheWorld,
    };
    let machine = Arc::new(Mutex::new(Machine::new(mode, Limits::default())));
    let count = workers.len();
    let listeners = Arc::new(Mutex::new(Listeners::new(shared.clone(), workers)));
    admin::serve(Admin {
        settings: settings.clone(),
        shared: shared.clone(),
        machine: machine.clone(),
        listeners: listeners.clone(),
        quit,
        log: set_level,
    })
    .await?;
    let plane = Arc::new(ControlPlane::new(&settings, shared.own.clone())?);
    let keeping = identity::keep(
        settings.clone(),
        plane.clone(),
        shared.own.clone(),
        shared.stats.clone(),
    );
    let ads = Ads {
        machine,
        parser: ConfigParser {
            own_certificate: settings.own_certificate().into(),
        },
        builder: Builder {
            own: shared.own.clone(),
            workers: count,
        },
        shared: shared.clone(),
        listeners: listeners.clone(),
        lookups: Lookups::new(),
        node: node(&settings),
        heard: false,
    };
    let keeping = tokio::spawn(keeping);
    let following = tokio::spawn(ads.run(plane));
    let (mut keeping, mut following) = (keeping, following);
    tokio::select! {
        _ = terminate.recv() => info!("told to stop"),
        _ = interrupt.recv() => info!("interrupted"),
        _ = quitting.wait_for(|quit| *quit) => info!("asked to quit"),
        ended = &mut keeping => anyhow::bail!("the certificate task ended: {ended:?}"),
        ended = &mut following => anyhow::bail!("the xDS task ended: {ended:?}"),
    }
    // Nothing new is applied from here on: a push must not open the ports again.
    following.abort();
    keeping.abort();
    listeners.lock().close();
    shared.drain.send_replace(true);
    drain(&shared, settings.drain()).await;
    Ok(())
}

/// Waits until the last connection is gone or the time is up.
async fn drain(shared: &Shared, limit: Duration) {
    let end = Instant::now() + limit;
    while shared.connections() > 0 {
        if Instant::now() >= end {
            warn!(connections = shared.connections(), "time to drain is up");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    info!("all connections are done");
}

fn node(settings: &Settings) -> Node {
    Node {
        id: settings.node_id(),
        cluster: settings.node_cluster(),
        user_agent_name: "osm-proxy".to_owned(),
        ..Node::default()
    }
}

/// The limit of file descriptors, raised to what the system allows.
fn descriptors() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return DESCRIPTORS;
    };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft);
    raised
        .ok()
        .and_then(|soft| usize::try_from(soft).ok())
        .unwrap_or(DESCRIPTORS)
}
