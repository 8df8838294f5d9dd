//! The index: changes of objects in, worlds out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::config::v1alpha2::MeshConfigSpec;
use families::{Index, Kind, Object, Problem};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::CommonArgs;
use crate::http::Ready;
use crate::inform::{Change, KINDS};
use crate::metrics::{Metric, Metrics};
use crate::program::LogLevel;
use crate::world::{Settings, World};

/// A new world is made when nothing changed for this long …
const QUIET: Duration = Duration::from_millis(50);
/// … or this long after the first change: the reaction to an object stays far below a second.
const LONGEST_DELAY: Duration = Duration::from_millis(300);

/// Turns changes into worlds.
pub(crate) struct Indexer {
    index: Index,
    mesh_config_name: String,
    osm_namespace: String,
    mesh_config: Option<MeshConfigSpec>,
    unlisted: Vec<Kind>,
    problems: BTreeSet<String>,
    log: LogLevel,
    ready: Ready,
    metrics: Arc<Metrics>,
}

// === impl Indexer ===

impl Indexer {
    pub(crate) fn new(
        args: &CommonArgs,
        log: LogLevel,
        ready: Ready,
        metrics: Arc<Metrics>,
    ) -> Self {
        let settings = families::Settings {
            mesh_name: args.mesh_name.clone(),
            osm_namespace: args.osm_namespace.clone(),
            trust_domain: args.trust_domain.clone(),
        };
        Self {
            index: Index::new(settings).with_mesh_config_name(args.osm_config_name.clone()),
            mesh_config_name: args.osm_config_name.clone(),
            osm_namespace: args.osm_namespace.clone(),
            mesh_config: None,
            unlisted: KINDS.to_vec(),
            problems: BTreeSet::new(),
            log,
            ready,
            metrics,
        }
    }

    /// Runs until the informers end.
    pub(crate) async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        worlds: watch::Sender<Option<Arc<World>>>,
    ) -> anyhow::Result<()> {
        while let Some(change) = changes.recv().await {
            if !self.take(change) {
                continue;
            }
            let latest = Instant::now() + LONGEST_DELAY;
            let mut quiet = Instant::now() + QUIET;
            loop {
                tokio::select! {
                    change = changes.recv() => match change {
                        Some(change) => if self.take(change) { quiet = Instant::now() + QUIET },
                        None => return Ok(()),
                    },
                    () = tokio::time::sleep_until(quiet.min(latest)) => break,
                }
            }
            if self.unlisted.is_empty() {
                self = self.publish(&worlds).await?;
            }
        }
        Ok(())
    }

    /// Takes one change; says whether the world may be another one now.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Apply(object) => {
                let ours = self.take_settings(&object);
                self.index.apply(object) || ours
            }
            Change::Remove(kind, namespace, name) => {
                let ours = kind == Kind::MeshConfig
                    && namespace == self.osm_namespace
                    && name == self.mesh_config_name;
                if ours {
                    self.mesh_config = None;
                }
                self.index.remove(kind, &namespace, &name) || ours
            }
            Change::None => false,
            Change::Listed(kind) => {
                let before = self.unlisted.len();
                self.unlisted.retain(|unlisted| *unlisted != kind);
                before != self.unlisted.len()
            }
        }
    }

    fn take_settings(&mut self, object: &Object) -> bool {
        let Object::MeshConfig(config) = object else {
            return false;
        };
        if config.metadata.name.as_deref() != Some(&self.mesh_config_name) {
            return false;
        }
        self.log.set(&config.spec.observability.osm_log_level);
        let changed = Settings::new(self.mesh_config.as_ref()) != Settings::new(Some(&config.spec));
        self.mesh_config = Some(config.spec.clone());
        changed
    }

    async fn publish(self, worlds: &watch::Sender<Option<Arc<World>>>) -> anyhow::Result<Self> {
        // Building takes long in a large mesh: not on a thread that serves proxies.
        let (mut this, mesh, problems) = tokio::task::spawn_blocking(move || {
            let (mesh, problems) = self.index.build();
            (self, mesh, problems)
        })
        .await?;
        this.report(&problems);
        let settings = Settings::new(this.mesh_config.as_ref());
        worlds.send_replace(Some(Arc::new(World { mesh, settings })));
        this.metrics.add(Metric::Broadcasts, &[], 1);
        if !this.ready.is_set() {
            tracing::info!("all kinds are listed, serving proxies");
            this.ready.set();
        }
        Ok(this)
    }

    /// Logs what users wrote in vain, once for as long as it stands.
    fn report(&mut self, problems: &[Problem]) {
        let now: BTreeSet<String> = problems
            .iter()
            .map(|problem| format!("{}: {}", problem.provenance, problem.message))
            .collect();
        for problem in now.difference(&self.problems) {
            tracing::warn!("{problem}");
        }
        self.problems = now;
    }
}
