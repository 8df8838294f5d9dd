//! Starting and stopping: threads, signals, the order of things.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::runtime::{Builder as RuntimeBuilder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use xds::client::{Limits, Machine, Mode, Rejected};

use crate::access::{self, AccessLog};
use crate::admin::{self, Admin};
use crate::ads::Ads;
use crate::cluster::Upkeep;
use crate::config::{ConfigParser, Resource};
use crate::control_plane::ControlPlane;
use crate::listeners::Listeners;
use crate::overload;
use crate::settings::{Settings, XdsMode};
use crate::snapshot::Builder;
use crate::spans::Own;
use crate::stats::Stats;
use crate::tls::OwnCertificate;
use crate::worker::{Phase, Shared};
use crate::{identity, probes};

/// Descriptors kept for the control plane, the administration, listeners and the log.
const RESERVED: usize = 100;
/// When the system does not tell its limit: POSIX' customary one.
const DESCRIPTORS: usize = 1024;

/// How long the last spans may take on their way.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// Changes the log level.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Runs the proxy until it is told to stop.
pub fn run(settings: Settings, set_level: SetLevel) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(folder) = &settings.access_log_folder {
        access::allow(folder.clone());
    }
    let stats = Arc::new(Stats::default());
    // With a bootstrap file, listeners say what is logged.
    let log = if settings.no_access_log || settings.bootstrap.is_some() {
        AccessLog::off(stats.clone())
    } else {
        AccessLog::stdout(stats.clone())
    };
    let descriptors = descriptors();
    let overload = overload_settings(&settings, descriptors);
    let limit = match (settings.max_connections, overload.connections) {
        (0, Some(limit)) => limit,
        // A proxied connection takes two descriptors.
        (0, None) => descriptors.saturating_sub(RESERVED) / 2,
        (limit, _) => limit,
    };
    let own = Arc::new(OwnCertificate::default());
    let shared = Arc::new(Shared::new(stats, log, own, limit.max(1)));
    let _ = shared.service_cluster.set(settings.node().cluster);
    shared.tracers.name(own_spans(&settings));
    let (stop, stopped) = watch::channel(false);
    let workers = (0..settings.workers)
        .map(|index| worker(index, stopped.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    info!(
        node = settings.node().id,
        workers = workers.len(),
        connections = limit,
        "proxy starts"
    );
    let control = RuntimeBuilder::new_current_thread().enable_all().build()?;
    let outcome = control.block_on(async {
        let watching = tokio::spawn(overload::watch(shared.clone(), overload));
        let outcome = supervise(settings, set_level, shared, workers).await;
        watching.abort();
        outcome
    });
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
    if settings.bootstrap.is_none() {
        // Probes first: the kubelet asks whether or not the control plane is there.
        probes::serve(settings.probes()?)?;
    }
    let machine = Arc::new(Mutex::new(machine(&settings)?));
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
    let plane = match &settings.bootstrap {
        None => Some(ControlPlane::new(&settings, shared.own.clone())?),
        Some(bootstrap) => {
            (bootstrap.ads.as_ref()).map(|source| ControlPlane::of_cluster(source, shared.clone()))
        }
    };
    let plane = plane.map(Arc::new);
    let identity = plane.clone().filter(|_| settings.bootstrap.is_none());
    let keeping = keep(settings.clone(), identity, shared.clone());
    let ads = Ads {
        machine,
        parser: parser(&settings),
        builder: Builder {
            own: shared.own.clone(),
            workers: count,
        },
        shared: shared.clone(),
        listeners: listeners.clone(),
        upkeep: Upkeep::new(),
        node: settings.node(),
        needs_identity: settings.bootstrap.is_none(),
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
    let end = Instant::now() + settings.drain();
    let again = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("told to stop again: stops at once");
    };
    let leaving = async {
        if !*quitting.borrow() {
            // Endpoints and certificates go on changing meanwhile.
            shared.enter_phase(Phase::Draining);
            tokio::time::sleep(settings.grace()).await;
        }
        // Nothing new is applied from here on: a push must not open the ports again.
        following.abort();
        keeping.abort();
        listeners.lock().stop(|_| true);
        shared.enter_phase(Phase::Closing);
        drain(&shared, end).await;
        shared.tracers.exporters.flush(LAST_SPANS).await;
    };
    tokio::select! {
        () = leaving => {}
        () = again => {}
    }
    Ok(())
}

/// What is watched: what the bootstrap file says, or our own.
fn overload_settings(settings: &Settings, descriptors: usize) -> overload::Settings {
    let given = settings.bootstrap.as_ref();
    let given = given.and_then(|bootstrap| bootstrap.overload.clone());
    given.unwrap_or_else(|| {
        let descriptors = u64::try_from(descriptors).unwrap_or(u64::MAX);
        overload::Settings::own(descriptors, overload::memory_limit())
    })
}

/// What spans say of the proxy.
fn own_spans(settings: &Settings) -> Own {
    let node = settings.node();
    let bootstrap = settings.bootstrap.as_ref();
    Own {
        node: node.id,
        zone: node.locality.unwrap_or_default().zone,
        tracer: bootstrap.and_then(|bootstrap| bootstrap.tracer.clone()),
    }
}

/// Reads the configuration as [`run`] would, and says what is wrong with it.
pub fn validate(settings: &Settings) -> anyhow::Result<()> {
    if let Some(folder) = &settings.access_log_folder {
        access::allow(folder.clone());
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    machine(settings).map(|_| ())
}

/// The xDS state with the bootstrap file's resources in it.
fn machine(settings: &Settings) -> anyhow::Result<Machine<Resource>> {
    let flag = match settings.xds_mode {
        XdsMode::Delta => Mode::Delta,
        XdsMode::Sotw => Mode::StateOfTheWorld,
    };
    let bootstrap = settings.bootstrap.as_ref();
    let ads = bootstrap.and_then(|bootstrap| bootstrap.ads.as_ref());
    let mut machine = Machine::new(ads.map_or(flag, |ads| ads.mode), Limits::default());
    let mut parser = parser(settings);
    for resource in bootstrap.iter().flat_map(|bootstrap| &bootstrap.resources) {
        let (kind, name, any) = (resource.kind, &resource.name, resource.any.clone());
        machine
            .fix(kind, name, any, &mut parser, Instant::now())
            .map_err(|Rejected { path, reason }| {
                anyhow::anyhow!("bootstrap file: {}.{path}: {reason}", resource.path)
            })?;
    }
    Ok(machine)
}

fn parser(settings: &Settings) -> ConfigParser {
    ConfigParser {
        own_certificate: settings.own_certificate().into(),
    }
}

/// Keeps the proxy's own certificate fresh, if it has one of its own.
async fn keep(settings: Settings, plane: Option<Arc<ControlPlane>>, shared: Arc<Shared>) {
    match plane {
        Some(plane) => {
            let take = |issued: &identity::Issued| {
                shared.own.replace(Arc::new(issued.certified()?));
                Ok(())
            };
            identity::keep(&settings, &plane, &shared.stats, take).await;
        }
        None => std::future::pending().await,
    }
}

/// Waits until the last connection is gone or the time is up.
async fn drain(shared: &Shared, end: Instant) {
    while shared.connections() > 0 {
        if Instant::now() >= end {
            warn!(connections = shared.connections(), "time to drain is up");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    info!("all connections are done");
}

/// The limit of file descriptors, raised to what the system allows.
pub(crate) fn descriptors() -> usize {
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
