//! Events of pods, as `kubectl describe` shows them. Best effort: a lost event harms nobody.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 256;
/// Events remembered for counting repetitions.
const REMEMBERED: usize = 1024;

/// Where events go.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Item>);

#[derive(Debug)]
struct Item {
    pod: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
}

// === impl Events ===

impl Events {
    /// A sink, and the task that writes to the API until dropped.
    pub fn new(client: Client, node: String) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), write(client, node, receiver))
    }

    /// Something normal happened to a pod (or to a container of it, named in the message).
    pub fn normal(&self, pod: &Pod, reason: &'static str, message: String) {
        self.send(pod, false, reason, message);
    }

    /// Something went wrong.
    pub fn warning(&self, pod: &Pod, reason: &'static str, message: String) {
        tracing::info!(
            pod = pod.name_any(),
            namespace = pod.namespace(),
            reason,
            message,
            "pod event"
        );
        self.send(pod, true, reason, message);
    }

    fn send(&self, pod: &Pod, warning: bool, reason: &'static str, message: String) {
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        let _ = self.0.try_send(Item {
            pod: reference,
            warning,
            reason,
            message,
        });
    }
}

async fn write(client: Client, node: String, mut items: mpsc::Receiver<Item>) {
    let mut known: HashMap<(String, &'static str, String), (String, i32)> = HashMap::new();
    while let Some(item) = items.recv().await {
        let namespace = item.pod.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = (
            item.pod.uid.clone().unwrap_or_default(),
            item.reason,
            item.message.clone(),
        );
        if known.len() > REMEMBERED {
            known.clear();
        }
        let result = if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(Timestamp::now())});
            api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
        } else {
            let now = Timestamp::now();
            let name = format!(
                "{}.{:x}",
                item.pod.name.clone().unwrap_or_default(),
                now.as_nanosecond()
            );
            let event = event(&node, name.clone(), namespace, item, now);
            let result = api.create(&PostParams::default(), &event).await;
            if result.is_ok() {
                known.insert(key, (name, 1));
            }
            result
        };
        if let Err(error) = result {
            tracing::debug!(%error, "an event could not be written");
        }
    }
}

fn event(node: &str, name: String, namespace: String, item: Item, now: Timestamp) -> Event {
    Event {
        metadata: kube::api::ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            ..Default::default()
        },
        involved_object: item.pod,
        type_: Some(if item.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(item.reason.to_owned()),
        message: Some(item.message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(node.to_owned()),
        }),
        ..Event::default()
    }
}
