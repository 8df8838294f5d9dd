//! A local copy of all objects of one kind, kept fresh by a watch.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Namespace and name.
pub type Key = (String, String);

/// The copy. Readers take a snapshot; [`Mirror::changes`] tells when to look again.
pub struct Mirror<K> {
    objects: RwLock<Arc<BTreeMap<Key, Arc<K>>>>,
    version: watch::Sender<u64>,
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            version: watch::Sender::new(0),
        }
    }
}

impl<K> Mirror<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// What is known now.
    pub fn snapshot(&self) -> Arc<BTreeMap<Key, Arc<K>>> {
        self.objects.read().clone()
    }

    /// One object.
    pub fn object(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects
            .read()
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// Changes whenever the copy does; 0 until the first complete list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits for the first complete list.
    pub async fn ready(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.version.subscribe().wait_for(|v| *v > 0).await;
    }

    /// Follows the API until dropped; errors are retried with back-off.
    pub async fn follow(&self, api: Api<K>, config: watcher::Config) {
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed = BTreeMap::new(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.insert(key(&object), Arc::new(object));
                }
                Ok(watcher::Event::InitDone) => {
                    self.change(|objects| *objects = std::mem::take(&mut listed))
                }
                Ok(watcher::Event::Apply(object)) => self.change(|objects| {
                    objects.insert(key(&object), Arc::new(object));
                }),
                Ok(watcher::Event::Delete(object)) => self.change(|objects| {
                    objects.remove(&key(&object));
                }),
                Err(error) => {
                    tracing::debug!(kind = std::any::type_name::<K>(), %error, "watch interrupted")
                }
            }
        }
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<Key, Arc<K>>)) {
        edit(Arc::make_mut(&mut self.objects.write()));
        self.version.send_modify(|v| *v += 1);
    }

    /// A copy with fixed content.
    #[cfg(test)]
    pub fn fixed(objects: impl IntoIterator<Item = K>) -> Self {
        let mirror = Self::default();
        mirror.change(|all| all.extend(objects.into_iter().map(|o| (key(&o), Arc::new(o)))));
        mirror
    }
}

/// Namespace and name of an object.
pub fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
