//! Informers: objects of the cluster as a stream of changes, made into worlds.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::access::v1alpha3::TrafficTarget;
use api::config::v1alpha2::{MeshConfig, MeshConfigSpec};
use api::policy::v1alpha1::{Egress, IngressBackend, Retry, UpstreamTrafficSetting};
use api::specs::v1alpha4::{HTTPRouteGroup, TCPRoute};
use api::split::v1alpha4::TrafficSplit;
use families::{Index, Kind, Object, Problem};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Pod, Service};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::metrics::{Metric, Metrics};
use crate::program::{LogLevel, Program};
use crate::world::{Settings, World};
use crate::{CommonArgs, http::Ready};

/// Changes between informers and index; informers wait when it is full.
const QUEUE_BOUND: usize = 4096;

/// A new world is made when nothing changed for this long …
const QUIET: Duration = Duration::from_millis(50);
/// … or this long after the first change: the reaction to an object stays far below a second.
const LONGEST_DELAY: Duration = Duration::from_millis(300);

/// Pauses of an informer after errors. The longest is short because a kind may appear only when
/// osm-bootstrap has made it, and everything waits for the last kind.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What an informer saw.
#[derive(Debug)]
pub(crate) enum Change {
    /// An object exists, or changed.
    Apply(Object),
    /// An object is gone: kind, namespace, name.
    Remove(Kind, String, String),
    /// Everything that existed when the informer started has been shown.
    Listed(Kind),
}

type Key = (String, String);

/// Starts an informer for every kind the mesh is made of.
pub(crate) fn start(
    program: &Program,
    args: &CommonArgs,
    metrics: &Arc<Metrics>,
) -> mpsc::Receiver<Change> {
    let (sender, receiver) = mpsc::channel(QUEUE_BOUND);
    let start = Start {
        program,
        metrics,
        sender: &sender,
    };
    start.cluster::<Namespace>(Kind::Namespace);
    start.cluster::<Pod>(Kind::Pod);
    start.cluster::<Service>(Kind::Service);
    start.cluster::<Endpoints>(Kind::Endpoints);
    start.cluster::<Egress>(Kind::Egress);
    start.cluster::<IngressBackend>(Kind::IngressBackend);
    start.cluster::<Retry>(Kind::Retry);
    start.cluster::<UpstreamTrafficSetting>(Kind::UpstreamTrafficSetting);
    start.cluster::<HTTPRouteGroup>(Kind::HttpRouteGroup);
    start.cluster::<TCPRoute>(Kind::TcpRoute);
    start.cluster::<TrafficTarget>(Kind::TrafficTarget);
    start.cluster::<TrafficSplit>(Kind::TrafficSplit);
    start.one::<MeshConfig>(
        Kind::MeshConfig,
        Api::namespaced(program.client.clone(), &args.osm_namespace),
    );
    receiver
}

/// The kinds that have to be listed before there is a world.
const KINDS: [Kind; 13] = [
    Kind::Namespace,
    Kind::Pod,
    Kind::Service,
    Kind::Endpoints,
    Kind::Egress,
    Kind::IngressBackend,
    Kind::Retry,
    Kind::UpstreamTrafficSetting,
    Kind::HttpRouteGroup,
    Kind::TcpRoute,
    Kind::TrafficTarget,
    Kind::TrafficSplit,
    Kind::MeshConfig,
];

struct Start<'a> {
    program: &'a Program,
    metrics: &'a Arc<Metrics>,
    sender: &'a mpsc::Sender<Change>,
}

// === impl Start ===

impl Start<'_> {
    fn cluster<K>(&self, kind: Kind)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        Object: From<K>,
    {
        self.one::<K>(kind, Api::all(self.program.client.clone()));
    }

    fn one<K>(&self, kind: Kind, api: Api<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        Object: From<K>,
    {
        let (sender, metrics, stop) = (
            self.sender.clone(),
            self.metrics.clone(),
            self.program.stop.clone(),
        );
        self.program.tasks.spawn(async move {
            tokio::select! {
                () = inform(kind, api, sender, &metrics) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Watches one kind for ever. Returns when nobody takes the changes any more.
async fn inform<K>(kind: Kind, api: Api<K>, sender: mpsc::Sender<Change>, metrics: &Metrics)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    Object: From<K>,
{
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut known: HashSet<Key> = HashSet::new();
    let mut listed: HashSet<Key> = HashSet::new();
    let mut pause = FIRST_PAUSE;
    while let Some(event) = events.next().await {
        let mut changes = Vec::new();
        match event {
            Err(error) => {
                tracing::warn!(kind = ?kind, %error, "informer, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(key(&object));
                known.insert(key(&object));
                changes.push(Change::Apply(object.into()));
            }
            Ok(Event::InitDone) => {
                // What we knew and was not listed again went away while nobody watched.
                let vanished: Vec<Key> = known.difference(&listed).cloned().collect();
                for (namespace, name) in vanished {
                    known.remove(&(namespace.clone(), name.clone()));
                    changes.push(Change::Remove(kind, namespace, name));
                }
                listed.clear();
                changes.push(Change::Listed(kind));
            }
            Ok(Event::Apply(object)) => {
                metrics.add(Metric::ApiEvents, &["apply", &key(&object).0], 1);
                known.insert(key(&object));
                changes.push(Change::Apply(object.into()));
            }
            Ok(Event::Delete(object)) => {
                let (namespace, name) = key(&object);
                metrics.add(Metric::ApiEvents, &["delete", &namespace], 1);
                known.remove(&(namespace.clone(), name.clone()));
                changes.push(Change::Remove(kind, namespace, name));
            }
        }
        pause = FIRST_PAUSE;
        for change in changes {
            if sender.send(change).await.is_err() {
                return;
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

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
