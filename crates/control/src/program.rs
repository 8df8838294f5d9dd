//! What every program of the control plane starts with: cryptography, log, API client, end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::CommonArgs;

/// How long tasks may take to end after the signal; the kubelet kills after 30 s.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// A running program: its client, its tasks and the signal that ends them. Clones are the same program.
#[derive(Clone)]
pub(crate) struct Program {
    /// Client of the Kubernetes API.
    pub(crate) client: Client,
    /// Cancelled when the program is to end.
    pub(crate) stop: CancellationToken,
    /// Owns all tasks.
    pub(crate) tasks: TaskTracker,
    /// Changes the log level.
    pub(crate) log: LogLevel,
    /// A task failed: the program ends with an error.
    failed: Arc<AtomicBool>,
}

/// Changes the level of the log while the program runs.
#[derive(Clone, Default)]
pub(crate) struct LogLevel(Option<reload::Handle<Targets, Registry>>);

// === impl Program ===

impl Program {
    /// Prepares the process and connects to the Kubernetes API (in-cluster or by kubeconfig).
    pub(crate) async fn start(args: &CommonArgs) -> anyhow::Result<Self> {
        // A second installation in one process (tests) is refused and the first stays.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let log = LogLevel::install(&args.verbosity);
        let client = Client::try_default()
            .await
            .context("no access to a Kubernetes API")?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let mut terminate = signal(SignalKind::terminate()).context("handler of SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("handler of SIGINT")?;
        let signalled = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
                _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
                () = signalled.cancelled() => {}
            }
            signalled.cancel();
        });
        Ok(Self {
            client,
            stop,
            tasks,
            log,
            failed: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Runs a task; if it fails the whole program ends.
    pub(crate) fn spawn<F>(&self, what: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        self.tasks.spawn(async move {
            match task.await {
                Err(error) => tracing::error!(error = format!("{error:#}"), "{what} failed"),
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => tracing::error!("{what} ended"),
            }
            failed.store(true, Ordering::Release);
            stop.cancel();
        });
    }

    /// Runs the program's own start, then waits for the end and gives the tasks time to finish.
    pub(crate) async fn run(
        self,
        start: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        tokio::select! {
            started = start => {
                started?;
                self.stop.cancelled().await;
            }
            // A signal, or a failed task, while starting.
            () = self.stop.cancelled() => {}
        }
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_DEADLINE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("tasks are still running after {SHUTDOWN_DEADLINE:?}, ending anyway");
        }
        anyhow::ensure!(
            !self.failed.load(Ordering::Acquire),
            "a part of the program failed, see the log"
        );
        Ok(())
    }
}

// === impl LogLevel ===

impl LogLevel {
    fn install(level: &str) -> Self {
        let (filter, handle) =
            reload::Layer::new(targets(parse_level(level).unwrap_or(LevelFilter::INFO)));
        let lines = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr);
        // Somebody else's subscriber (a test's) stays in place.
        let installed = tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .is_ok();
        Self(installed.then_some(handle))
    }

    /// Sets the level by one of upstream's words; unknown words change nothing.
    pub(crate) fn set(&self, level: &str) {
        let Some(filter) = parse_level(level).map(targets) else {
            tracing::warn!(level, "spec.observability.osmLogLevel is not a log level");
            return;
        };
        if let Some(handle) = &self.0
            && handle
                .with_current(|current| *current != filter)
                .unwrap_or(false)
        {
            let _ = handle.reload(filter);
            tracing::info!(level, "log level");
        }
    }
}

/// The level for our own crates. Libraries warn at most: at debug they log every request, and what they
/// log may hold secrets.
fn targets(level: LevelFilter) -> Targets {
    const OURS: [&str; 7] = ["api", "ca", "control", "families", "inject", "model", "xds"];
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(OURS.map(|name| (name, level)))
}

fn parse_level(word: &str) -> Option<LevelFilter> {
    Some(match word {
        "disabled" => LevelFilter::OFF,
        "panic" | "fatal" | "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}
