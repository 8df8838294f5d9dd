//! Events about objects, as `kubectl describe` shows them

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tracing::debug;

use crate::key::{has_reason, message};
use crate::template::suffix;

/// How grave an event is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// Writes events in the name of one controller.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub client: Client,
    pub component: &'static str,
}

impl Recorder {
    /// Tells what happened to the object; the same text again only counts up. An event that cannot be written is dropped.
    pub async fn tell<K>(&self, about: &K, severity: Severity, reason: &str, text: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let namespace = about.namespace().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let uid = about.uid().unwrap_or_default();
        let name = format!("{}.{}", about.name_any(), suffix(&[&uid, reason, text]));
        let now = Time(Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(K::api_version(&()).into_owned()),
                kind: Some(K::kind(&()).into_owned()),
                name: Some(about.name_any()),
                namespace: about.namespace(),
                uid: Some(uid),
                resource_version: about.resource_version(),
                field_path: None,
            },
            type_: Some(format!("{severity:?}")),
            reason: Some(reason.to_owned()),
            message: Some(text.to_owned()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now.clone()),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                host: None,
            }),
            ..Event::default()
        };
        let written = match events.create(&PostParams::default(), &event).await {
            Err(error) if has_reason(&error, "AlreadyExists") => match events.get(&name).await {
                Ok(seen) => {
                    let count = seen.count.unwrap_or(1).saturating_add(1);
                    let again = json!({"count": count, "lastTimestamp": now});
                    events
                        .patch(&name, &PatchParams::default(), &Patch::Merge(again))
                        .await
                }
                Err(error) => Err(error),
            },
            other => other,
        };
        if let Err(error) = written {
            debug!(event = name, error = message(&error), "event dropped");
        }
    }
}
