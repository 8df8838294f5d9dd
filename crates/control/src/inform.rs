//! Informers: objects of the cluster as a stream of changes.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::access::v1alpha3::TrafficTarget;
use api::config::v1alpha2::MeshConfig;
use api::policy::v1alpha1::{Egress, IngressBackend, Retry, UpstreamTrafficSetting};
use api::specs::v1alpha4::{HTTPRouteGroup, TCPRoute};
use api::split::v1alpha4::TrafficSplit;
use families::{Kind, Object};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Pod, Service};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::CommonArgs;
use crate::lenient::{Lenient, Watched};
use crate::metrics::{Metric, Metrics};
use crate::program::Program;

/// Changes between informers and index; informers wait when it is full.
const QUEUE_BOUND: usize = 4096;

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
    /// An object exists and cannot be read, for this reason: it counts as absent. Of the MeshConfig the last
    /// readable one stays.
    Unreadable(Kind, String, String, String),
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
    start.cluster::<Lenient<Egress>>(Kind::Egress);
    start.cluster::<Lenient<IngressBackend>>(Kind::IngressBackend);
    start.cluster::<Lenient<Retry>>(Kind::Retry);
    start.cluster::<Lenient<UpstreamTrafficSetting>>(Kind::UpstreamTrafficSetting);
    start.cluster::<Lenient<HTTPRouteGroup>>(Kind::HttpRouteGroup);
    start.cluster::<Lenient<TCPRoute>>(Kind::TcpRoute);
    start.cluster::<Lenient<TrafficTarget>>(Kind::TrafficTarget);
    start.cluster::<Lenient<TrafficSplit>>(Kind::TrafficSplit);
    start.one::<Lenient<MeshConfig>>(
        Kind::MeshConfig,
        Api::namespaced(program.client.clone(), &args.osm_namespace),
    );
    receiver
}

/// The kinds that have to be listed before there is a world.
pub(crate) const KINDS: [Kind; 13] = [
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
        K: Watched + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        self.one::<K>(kind, Api::all(self.program.client.clone()));
    }

    fn one<K>(&self, kind: Kind, api: Api<K>)
    where
        K: Watched + Clone + DeserializeOwned + Debug + Send + 'static,
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
    K: Watched + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut known: HashSet<Key> = HashSet::new();
    let mut listed: HashSet<Key> = HashSet::new();
    let mut pause = FIRST_PAUSE;
    let mut failing = None;
    while let Some(event) = events.next().await {
        let mut changes = Vec::new();
        match event {
            Err(error) => {
                let reason = reason(&error);
                // Told once: before osm-bootstrap has made the kinds, every try fails.
                if failing.as_ref() != Some(&reason) {
                    tracing::warn!(kind = ?kind, reason, "informer, trying again");
                    failing = Some(reason);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(key(&object));
                known.insert(key(&object));
                changes.push(object.into_change(kind));
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
                changes.push(object.into_change(kind));
            }
            Ok(Event::Delete(object)) => {
                let (namespace, name) = key(&object);
                metrics.add(Metric::ApiEvents, &["delete", &namespace], 1);
                known.remove(&(namespace.clone(), name.clone()));
                changes.push(Change::Remove(kind, namespace, name));
            }
        }
        pause = FIRST_PAUSE;
        failing = None;
        for change in changes {
            if sender.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// The API server's words, or the error's own chain.
fn reason(error: &watcher::Error) -> String {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            return status.message.clone();
        }
        source = error.source();
    }
    error.to_string()
}

fn key<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake_api;

    fn pod(name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "n", "resourceVersion": "5" },
            "spec": { "containers": [] },
        })
    }

    fn list(names: &[&str]) -> Value {
        let items: Vec<Value> = names.iter().map(|name| pod(name)).collect();
        json!({ "apiVersion": "v1", "kind": "PodList", "metadata": { "resourceVersion": "9" }, "items": items })
    }

    fn describe(change: &Change) -> String {
        match change {
            Change::Apply(Object::Pod(pod)) => {
                format!("+{}", pod.metadata.name.as_deref().unwrap_or_default())
            }
            Change::Remove(Kind::Pod, namespace, name) => format!("-{namespace}/{name}"),
            Change::Listed(Kind::Pod) => "listed".into(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_vanished_while_the_watch_was_broken_is_removed() {
        let event = |kind: &str, object: Value| json!({ "type": kind, "object": object });
        let gone = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410 });
        let (client, _) = fake_api::client(move |number, _| {
            let lines = match number {
                0 => vec![list(&["a", "b"])],
                1 => vec![
                    event("ADDED", pod("c")),
                    event("DELETED", pod("a")),
                    event("ERROR", gone.clone()),
                ],
                2 => vec![list(&["c"])],
                _ => vec![],
            };
            (200, lines)
        });
        let (sender, mut changes) = mpsc::channel(64);
        let watching = tokio::spawn(async move {
            inform::<Pod>(Kind::Pod, Api::all(client), sender, &Metrics::default()).await;
        });
        let mut seen = Vec::new();
        while seen.iter().filter(|change| *change == "listed").count() < 2 {
            let change = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await;
            seen.push(describe(&change.expect("no change").unwrap()));
        }
        watching.abort();
        assert_eq!(
            seen,
            ["+a", "+b", "listed", "+c", "-n/a", "+c", "-n/b", "listed"]
        );
    }
}
