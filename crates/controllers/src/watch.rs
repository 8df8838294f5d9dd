//! One watch per kind: a store that follows the API server, and every change told once

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{Stream, StreamExt, pin_mut};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::debug;

use crate::key::Key;

/// The objects of one kind as last seen.
pub(crate) struct Store<K> {
    objects: RwLock<HashMap<Key, Arc<K>>>,
    synced: tokio::sync::watch::Sender<bool>,
}

// === impl Store ===

impl<K: Resource> Store<K> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: RwLock::default(),
            synced: tokio::sync::watch::Sender::new(false),
        })
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// All objects of the namespace, in no order.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects
            .iter()
            .filter(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Waits until the first list is complete: before that, an absent object means nothing.
    pub async fn synced(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn put(&self, object: Arc<K>) -> Option<Arc<K>> {
        self.objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(Key::of(&*object), object)
    }

    fn take(&self, key: &Key) -> Option<Arc<K>> {
        self.objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key)
    }

    fn replace(&self, objects: HashMap<Key, Arc<K>>) -> HashMap<Key, Arc<K>> {
        std::mem::replace(
            &mut *self.objects.write().unwrap_or_else(PoisonError::into_inner),
            objects,
        )
    }
}

/// Keeps the store like the API server's objects, for ever, and tells each change as (before, after).
///
/// Objects that vanished while the watch was broken are told too.
pub(crate) fn follow<K, F>(
    api: Api<K>,
    config: watcher::Config,
    store: Arc<Store<K>>,
    changed: F,
) -> impl Future<Output = ()>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Fn(Option<&K>, Option<&K>),
{
    follow_events(
        watcher::watcher(api, config).default_backoff(),
        store,
        changed,
    )
}

/// [`follow`] on a stream of events.
pub(crate) async fn follow_events<K, F>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    store: Arc<Store<K>>,
    changed: F,
) where
    K: Resource,
    F: Fn(Option<&K>, Option<&K>),
{
    let mut listed = HashMap::new();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(Key::of(&object), Arc::new(object));
            }
            Ok(Event::InitDone) => {
                let now = std::mem::take(&mut listed);
                let before = store.replace(now.clone());
                store.synced.send_replace(true);
                for (key, object) in &before {
                    if !now.contains_key(key) {
                        changed(Some(object), None);
                    }
                }
                for (key, object) in &now {
                    changed(before.get(key).map(|o| &**o), Some(object));
                }
            }
            Ok(Event::Apply(object)) => {
                let object = Arc::new(object);
                let before = store.put(object.clone());
                changed(before.as_deref(), Some(&object));
            }
            Ok(Event::Delete(object)) => {
                let before = store.take(&Key::of(&object));
                changed(before.as_deref().or(Some(&object)), None);
            }
            Err(error) => debug!(%error, "watch interrupted, it starts again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::stream;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("ns".to_owned()),
            ..ObjectMeta::default()
        };
        ConfigMap {
            metadata,
            ..ConfigMap::default()
        }
    }

    #[tokio::test]
    async fn an_object_that_vanished_while_the_watch_was_broken_is_told() {
        let store = Store::new();
        let told = RefCell::new(Vec::new());
        let events = vec![
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
            Event::Init,
            Event::InitApply(object("b")),
            Event::InitDone,
            Event::Apply(object("c")),
            Event::Delete(object("c")),
        ];
        follow_events(
            stream::iter(events.into_iter().map(Ok)),
            store.clone(),
            |before, after| {
                let name = |o: Option<&ConfigMap>| {
                    o.and_then(|o| o.metadata.name.clone()).unwrap_or_default()
                };
                told.borrow_mut()
                    .push(format!("{}>{}", name(before), name(after)));
            },
        )
        .await;
        let mut told = told.into_inner();
        told[..2].sort();
        assert_eq!(told, [">a", ">b", "a>", "b>b", ">c", "c>"]);
        assert_eq!(store.in_namespace("ns").len(), 1);
        store.synced().await;
    }
}
