//! The index: changes of objects in, worlds out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::config::v1alpha2::MeshConfigSpec;
use families::{Built, Index, Judgement, Key, Kind, Object, Outcome, Problem, Statuses};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::CommonArgs;
use crate::http::Ready;
use crate::inform::{Change, KINDS};
use crate::metrics::{Metric, Metrics};
use crate::program::LogLevel;
use crate::status::Findings;
use crate::validate::Question;
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
    unreadable: BTreeMap<(Kind, Key), String>,
    problems: BTreeSet<String>,
    log: LogLevel,
    ready: Ready,
    metrics: Arc<Metrics>,
}

/// Where worlds go, and what the objects they were made of are to be told.
pub(crate) struct Publisher {
    pub(crate) worlds: watch::Sender<Option<Arc<World>>>,
    pub(crate) findings: watch::Sender<Findings>,
}

/// Changes that came closely one after the other and make one world.
struct Burst {
    first: Instant,
    last: Instant,
}

// === impl Burst ===

impl Burst {
    fn new(now: Instant) -> Self {
        Self {
            first: now,
            last: now,
        }
    }

    fn note(&mut self, now: Instant) {
        self.last = now;
    }

    /// When the world is to be made, unless another change comes before.
    fn due(&self) -> Instant {
        (self.last + QUIET).min(self.first + LONGEST_DELAY)
    }
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
            unreadable: BTreeMap::new(),
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
        mut questions: mpsc::Receiver<Question>,
        publisher: Publisher,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => if !self.take(change) { continue },
                    None => return Ok(()),
                },
                Some(question) = questions.recv() => {
                    self.answer(question);
                    continue;
                }
            }
            let mut burst = Burst::new(Instant::now());
            loop {
                tokio::select! {
                    change = changes.recv() => match change {
                        Some(change) => if self.take(change) { burst.note(Instant::now()) },
                        None => return Ok(()),
                    },
                    Some(question) = questions.recv() => self.answer(question),
                    () = tokio::time::sleep_until(burst.due()) => break,
                }
            }
            if self.unlisted.is_empty() {
                self = self.publish(&publisher).await?;
            }
        }
    }

    /// Judges an object beside what is known, for the validating webhook. Before everything is listed too little is
    /// known to warn of what is missing.
    fn answer(&self, question: Question) {
        let judgement = if self.unlisted.is_empty() {
            self.index.judge(&question.object)
        } else {
            Judgement::default()
        };
        // Whoever asked may have lost patience.
        let _ = question.answer.send(judgement);
    }

    /// Takes one change; says whether the world may be another one now.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Apply(object) => {
                let ours = self.take_settings(&object);
                let healed = self.heal(object.kind(), &object.key());
                self.index.apply(object) || ours || healed
            }
            Change::Unreadable(kind, namespace, name, why) => {
                let key = (namespace.as_str().into(), name.as_str().into());
                let known = self.unreadable.insert((kind, key), why.clone());
                let gone = kind != Kind::MeshConfig && self.index.remove(kind, &namespace, &name);
                gone || known != Some(why)
            }
            Change::Remove(kind, namespace, name) => {
                let key = (namespace.as_str().into(), name.as_str().into());
                let healed = self.heal(kind, &key);
                let ours = kind == Kind::MeshConfig
                    && namespace == self.osm_namespace
                    && name == self.mesh_config_name;
                if ours {
                    self.mesh_config = None;
                }
                self.index.remove(kind, &namespace, &name) || ours || healed
            }
            Change::Listed(kind) => {
                let before = self.unlisted.len();
                self.unlisted.retain(|unlisted| *unlisted != kind);
                before != self.unlisted.len()
            }
        }
    }

    /// The object can be read again, or is gone.
    fn heal(&mut self, kind: Kind, key: &Key) -> bool {
        !self.unreadable.is_empty() && self.unreadable.remove(&(kind, key.clone())).is_some()
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

    async fn publish(self, publisher: &Publisher) -> anyhow::Result<Self> {
        // Building takes long in a large mesh: not on a thread that serves proxies.
        let (mut this, built) = tokio::task::spawn_blocking(move || {
            let built = self.index.build();
            (self, built)
        })
        .await?;
        let Built {
            mesh,
            problems,
            statuses,
        } = built;
        this.report(&problems);
        let findings = this.findings(problems, statuses);
        let settings = Settings::new(this.mesh_config.as_ref());
        let before = publisher.worlds.borrow().clone();
        let mesh = match before {
            Some(before) => before.mesh.succeeded_by(mesh),
            None => mesh,
        };
        let world = World { mesh, settings };
        publisher.worlds.send_replace(Some(Arc::new(world)));
        publisher.findings.send_if_modified(|old| {
            let changed = *old != findings;
            *old = findings;
            changed
        });
        this.metrics.add(Metric::Broadcasts, &[], 1);
        if !this.ready.is_set() {
            tracing::info!("all kinds are listed, serving proxies");
            this.ready.set();
        }
        Ok(this)
    }

    /// What is to be told to the objects of the mesh, those included that cannot be read.
    fn findings(&self, mut problems: Vec<Problem>, mut statuses: Statuses) -> Findings {
        problems.retain(|problem| Kind::of_policy(&problem.provenance.kind).is_none());
        for ((kind, key), why) in &self.unreadable {
            if *kind == Kind::MeshConfig || self.index.monitors(&key.0) {
                let outcome = Outcome::Error(format!("the object cannot be read: {why}"));
                statuses.insert((*kind, key.clone()), outcome);
            }
        }
        Findings {
            statuses,
            others: problems,
        }
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use k8s_openapi::api::core::v1::Namespace;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: CommonArgs,
    }

    fn namespace(name: &str) -> Change {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        Change::Apply(namespace.into())
    }

    #[test]
    fn a_world_is_due_when_it_is_quiet_and_never_later_than_the_longest_delay() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        for (changes, due) in [
            (&[] as &[u64], 50),
            (&[10], 60),
            (&[40, 80, 120], 170),
            (&[40, 80, 120, 160, 200, 240], 290),
            (&[40, 80, 120, 160, 200, 240, 280], 300),
        ] {
            let mut burst = Burst::new(start);
            changes.iter().for_each(|millis| burst.note(at(*millis)));
            assert_eq!(burst.due(), at(due), "{changes:?}");
        }
    }

    #[tokio::test]
    async fn a_world_needs_every_kind() {
        let args = Program::parse_from(["x"]).args;
        let (ready, metrics) = (Ready::default(), Arc::new(Metrics::default()));
        let mut indexer = Indexer::new(&args, LogLevel::default(), ready.clone(), metrics);
        let (last, others) = KINDS.split_last().unwrap();
        for kind in others {
            assert!(indexer.take(Change::Listed(*kind)));
            assert!(!indexer.unlisted.is_empty());
        }
        assert!(indexer.take(namespace("a")));
        assert!(!indexer.take(namespace("a")), "nothing changed");

        let (sender, changes) = mpsc::channel(64);
        let (publish, mut worlds) = watch::channel(None);
        let publisher = Publisher {
            worlds: publish,
            findings: watch::Sender::default(),
        };
        let mut told = publisher.findings.subscribe();
        let (ask, questions) = mpsc::channel(1);
        let running = tokio::spawn(indexer.run(changes, questions, publisher));
        assert!(!ready.is_set());
        sender.send(Change::Listed(*last)).await.unwrap();
        worlds.changed().await.unwrap();
        assert!(ready.is_set() && worlds.borrow_and_update().is_some());

        let mut monitored = Namespace::default();
        monitored.metadata.name = Some("shop".to_owned());
        let label = (api::labels::MONITORED_BY.to_owned(), "osm".to_owned());
        monitored.metadata.labels = Some([label].into());
        let target = || Kind::TrafficTarget;
        let unreadable = |namespace: &str| {
            Change::Unreadable(
                target(),
                namespace.to_owned(),
                "t".to_owned(),
                "odd".to_owned(),
            )
        };
        for change in [
            Change::Apply(monitored.into()),
            unreadable("shop"),
            unreadable("elsewhere"),
        ] {
            sender.send(change).await.unwrap();
        }
        let outcome = |told: &Findings, namespace: &str| {
            told.statuses
                .get(&(target(), (namespace.into(), "t".into())))
                .cloned()
        };
        let seen = told
            .wait_for(|told| outcome(told, "shop").is_some())
            .await
            .unwrap()
            .clone();
        let reason = "the object cannot be read: odd".to_owned();
        assert_eq!(outcome(&seen, "shop"), Some(Outcome::Error(reason)));
        assert_eq!(outcome(&seen, "elsewhere"), None, "not of the mesh");
        let gone = Change::Remove(target(), "shop".to_owned(), "t".to_owned());
        sender.send(gone).await.unwrap();
        told.wait_for(|told| outcome(told, "shop").is_none())
            .await
            .unwrap();

        let object = api::split::v1alpha4::TrafficSplit::new("s", Default::default()).into();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let object = Box::new(object);
        ask.send(Question { object, answer }).await.unwrap();
        assert!(
            !answered.await.unwrap().problems.is_empty(),
            "it names no service"
        );
        drop(sender);
        running.await.unwrap().unwrap();
    }
}
