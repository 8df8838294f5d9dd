//! Garbage: objects whose owners are all gone are deleted, in the background, the foreground, or left as orphans
//!
//! Every kind the server knows is watched, metadata only; new kinds are found when a CRD changes.

mod graph;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions,
    PropagationPolicy,
};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::{AbortHandle, JoinSet};

use self::graph::{FOREGROUND, Graph, Node, ORPHAN, Owner, Verdict, judge};
use crate::key::{During, Failure, gone_is_fine, has_code};
use crate::kinds::{Kind, discover};
use crate::queue::{Next, Queue, work};
use crate::watch::{Store, follow_events};

/// A CRD is served a moment after its status says so.
const CRD_SERVED: Duration = Duration::from_millis(200);
/// And at the latest after this time.
const CRD_SURELY_SERVED: Duration = Duration::from_secs(3);
/// An owner of a kind the server does not know: perhaps its CRD comes back.
const UNKNOWN_KIND: Duration = Duration::from_secs(30);

/// What the watches, the worker and the discovery share.
struct Shared {
    client: Client,
    graph: Mutex<Graph>,
    kinds: Mutex<Vec<Arc<Kind>>>,
    queue: Arc<Queue<String>>,
}

/// Runs the collector for ever.
pub(crate) async fn run(client: Client) {
    let shared = Arc::new(Shared {
        client,
        graph: Mutex::default(),
        kinds: Mutex::default(),
        queue: Queue::new(),
    });
    let look = Queue::new();
    look.add("now");
    let mut tasks = JoinSet::new();
    let worker = shared.clone();
    tasks.spawn(async move {
        let queue = worker.queue.clone();
        work("garbage", queue, |uid| worker.clone().reconcile(uid)).await;
    });
    let crds: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(shared.client.clone());
    let crd_events = watcher(crds, watcher::Config::default()).default_backoff();
    let looks = look.clone();
    tasks.spawn(follow_events(crd_events, Store::new(), move |_, _| {
        looks.add_after("soon", CRD_SERVED);
        looks.add_after("late", CRD_SURELY_SERVED);
    }));
    let watches = Arc::new(Mutex::new(Watches::default()));
    tasks.spawn(work("garbage-kinds", look, move |_| {
        shared.clone().follow_kinds(watches.clone())
    }));
    // None of them ends by itself; when one panics the collector ends and its owner says so.
    tasks.join_next().await;
}

/// The watch of each kind; dropped, they all end.
#[derive(Default)]
struct Watches {
    tasks: JoinSet<()>,
    by_kind: HashMap<Arc<Kind>, AbortHandle>,
}

// === impl Shared ===

impl Shared {
    /// Starts a watch for each new kind and ends those of kinds that are gone.
    async fn follow_kinds(self: Arc<Self>, watches: Arc<Mutex<Watches>>) -> Result<Next, Failure> {
        let kinds: Vec<Arc<Kind>> = discover(&self.client)
            .await?
            .into_iter()
            .filter(is_followed)
            .map(Arc::new)
            .collect();
        let mut watches = watches.lock().unwrap_or_else(PoisonError::into_inner);
        let Watches { tasks, by_kind } = &mut *watches;
        by_kind.retain(|kind, task| {
            let stays = kinds.contains(kind);
            if !stays {
                task.abort();
            }
            stays
        });
        for kind in &kinds {
            by_kind
                .entry(kind.clone())
                .or_insert_with(|| tasks.spawn(self.clone().follow_kind(kind.clone())));
        }
        *self.kinds.lock().unwrap_or_else(PoisonError::into_inner) = kinds;
        while tasks.try_join_next().is_some() {}
        Ok(Next::Wait)
    }

    async fn follow_kind(self: Arc<Self>, kind: Arc<Kind>) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.client.clone(), &kind.resource);
        let events = watcher(api, watcher::Config::default()).default_backoff();
        follow_events(
            events,
            Store::new(),
            |before, after: Option<&PartialObjectMeta<DynamicObject>>| {
                let touched = {
                    let mut graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
                    let before_uid =
                        before.and_then(|object: &PartialObjectMeta<DynamicObject>| {
                            object.metadata.uid.clone()
                        });
                    let after_uid = after.and_then(|object| object.metadata.uid.clone());
                    // The same name may be another object by now.
                    let gone = before_uid.filter(|uid| Some(uid) != after_uid.as_ref());
                    let mut touched = gone.map(|uid| graph.remove(&uid)).unwrap_or_default();
                    touched.extend(
                        after
                            .map(|object| graph.put(Node::new(kind.clone(), &object.metadata)))
                            .unwrap_or_default(),
                    );
                    touched
                };
                for uid in touched {
                    self.queue.add(uid);
                }
            },
        )
        .await;
    }

    async fn reconcile(self: Arc<Self>, uid: String) -> Result<Next, Failure> {
        let (node, dependents) = {
            let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
            match graph.get(&uid) {
                Some(node) => (node.clone(), graph.dependents(&uid)),
                None => return Ok(Next::Wait),
            }
        };
        if node.orphans() {
            for dependent in &dependents {
                self.forget(dependent, std::slice::from_ref(&uid)).await?;
            }
            return self.unblock(&node, ORPHAN).await;
        }
        if node.waits() {
            return self.await_dependents(&node, &dependents).await;
        }
        let mut owners = Vec::with_capacity(node.owners.len());
        let mut unknown = false;
        for reference in &node.owners {
            let owner = self.look_up(&node, reference).await?;
            unknown |= owner.is_none();
            owners.push(owner.unwrap_or(Owner::Stands));
        }
        match judge(&node, &owners, !dependents.is_empty()) {
            Verdict::Keep => {}
            Verdict::Forget(gone) => self.forget(&node, &gone).await?,
            Verdict::Delete { foreground } => self.delete(&node, foreground).await?,
        }
        Ok(if unknown {
            Next::After(UNKNOWN_KIND)
        } else {
            Next::Wait
        })
    }

    /// Has the dependents of a waiting owner deleted; lets the owner go when none blocks it.
    async fn await_dependents(&self, node: &Node, dependents: &[Node]) -> Result<Next, Failure> {
        for dependent in dependents.iter().filter(|dependent| !dependent.deleting) {
            self.queue.add(dependent.uid.clone());
        }
        if dependents
            .iter()
            .any(|dependent| dependent.blocks(&node.uid))
        {
            return Ok(Next::Wait);
        }
        self.unblock(node, FOREGROUND).await
    }

    /// The state of an owner; `None` if the server does not know its kind.
    async fn look_up(
        &self,
        node: &Node,
        reference: &OwnerReference,
    ) -> Result<Option<Owner>, Failure> {
        {
            let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(owner) = graph.get(&reference.uid) {
                return Ok(Some(if owner.waits() {
                    Owner::Waits
                } else {
                    Owner::Stands
                }));
            }
        }
        let Some(kind) = self.kind_of(reference) else {
            return Ok(None);
        };
        let api: Api<DynamicObject> = match (kind.namespaced, node.key.namespace.as_str()) {
            // An object of the cluster cannot belong to a namespaced one: not to be judged, so it stands.
            (true, "") => return Ok(Some(Owner::Stands)),
            (true, namespace) => {
                Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
            }
            (false, _) => Api::all_with(self.client.clone(), &kind.resource),
        };
        let there = api.get_metadata_opt(&reference.name).await;
        let there = there.during(|| {
            format!(
                "look up {} {}, owner of {}",
                reference.kind, reference.name, node.key
            )
        })?;
        Ok(Some(match there {
            Some(owner) if owner.metadata.uid.as_ref() == Some(&reference.uid) => Owner::Stands,
            _ => Owner::Absent,
        }))
    }

    fn kind_of(&self, reference: &OwnerReference) -> Option<Arc<Kind>> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let group = reference
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        kinds
            .iter()
            .find(|kind| kind.resource.kind == reference.kind && kind.resource.group == group)
            .cloned()
    }

    async fn forget(&self, node: &Node, owners: &[String]) -> Result<(), Failure> {
        let api = self.api(node);
        let what = || {
            format!(
                "take owners out of {} {}",
                node.kind.resource.kind, node.key
            )
        };
        let Some(object) = api.get_metadata_opt(&node.key.name).await.during(what)? else {
            return Ok(());
        };
        let mut references = object.metadata.owner_references.unwrap_or_default();
        references.retain(|reference| !owners.contains(&reference.uid));
        let patch = json!({"metadata": {"ownerReferences": (!references.is_empty()).then_some(references), "resourceVersion": object.metadata.resource_version}});
        gone_is_fine(
            api.patch(
                &node.key.name,
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await,
        )
        .during(what)
        .map(drop)
    }

    async fn unblock(&self, node: &Node, finalizer: &str) -> Result<Next, Failure> {
        let api = self.api(node);
        let what = || {
            format!(
                "take finalizer {finalizer} from {} {}",
                node.kind.resource.kind, node.key
            )
        };
        let Some(object) = api.get_metadata_opt(&node.key.name).await.during(what)? else {
            return Ok(Next::Wait);
        };
        let mut finalizers = object.metadata.finalizers.unwrap_or_default();
        finalizers.retain(|other| other != finalizer);
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": object.metadata.resource_version}});
        gone_is_fine(
            api.patch(
                &node.key.name,
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await,
        )
        .during(what)?;
        Ok(Next::Wait)
    }

    async fn delete(&self, node: &Node, foreground: bool) -> Result<(), Failure> {
        let policy = if foreground {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(node.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api(node).delete(&node.key.name, &params).await {
            // Another object by that name: ours is gone.
            Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(()),
            other => other
                .during(|| format!("delete {} {}", node.kind.resource.kind, node.key))
                .map(drop),
        }
    }

    fn api(&self, node: &Node) -> Api<DynamicObject> {
        if node.kind.namespaced {
            Api::namespaced_with(
                self.client.clone(),
                &node.key.namespace,
                &node.kind.resource,
            )
        } else {
            Api::all_with(self.client.clone(), &node.kind.resource)
        }
    }
}

/// Events come in masses and own nothing; the group `extensions` only repeats others.
fn is_followed(kind: &Kind) -> bool {
    kind.watchable && kind.resource.kind != "Event" && kind.resource.group != "extensions"
}
