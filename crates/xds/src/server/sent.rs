//! What a proxy was sent of one kind: a pointer to shared sets and the few resources in which it differs from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::subscription::Subscription;
use crate::target::{Item, Layers, Set};

/// Below this a set is not worth sending as a whole.
const WORTHWHILE: usize = 16;

/// Names and versions of what was sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    base: Layers,
    /// Versions that are not those of `base`; `None`: not sent, or not any more.
    beside: BTreeMap<Box<str>, Option<Box<str>>>,
}

/// Resources to be sent.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Everything that the proxy has in common with others.
    pub(super) common: Option<Arc<Set>>,
    /// And these.
    pub(super) items: Vec<Arc<Item>>,
}

// === impl Load ===

impl Load {
    pub(super) fn is_empty(&self) -> bool {
        self.common.is_none() && self.items.is_empty()
    }

    /// All of it, one by one.
    pub(super) fn into_items(self) -> Vec<Arc<Item>> {
        let common = self.common.iter().flat_map(|set| set.items()).cloned();
        common.chain(self.items).collect()
    }

    /// Adds what is not in it yet.
    pub(super) fn extend(&mut self, other: Load) {
        self.common = other.common.or(self.common.take());
        for item in other.items {
            if !self.items.iter().any(|known| known.name() == item.name()) {
                self.items.push(item);
            }
        }
    }
}

// === impl Sent ===

impl Sent {
    /// What a proxy says that it holds from an earlier stream.
    pub(super) fn claimed(held: impl Iterator<Item = (String, String)>) -> Self {
        let beside = held.map(|(name, version)| (name.into(), Some(version.into())));
        Self {
            base: Layers::default(),
            beside: beside.collect(),
        }
    }

    #[cfg(test)]
    pub(super) fn differences(&self) -> usize {
        self.beside.len()
    }

    pub(super) fn version(&self, name: &str) -> Option<&str> {
        match self.beside.get(name) {
            Some(version) => version.as_deref(),
            None => self.base.get(name).map(|item| item.version()),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.version(name).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.beside.values().all(Option::is_none)
            && self
                .base
                .iter()
                .all(|item| self.beside.contains_key(item.name()))
    }

    /// Whether every resource of `target` was sent, in whatever version.
    pub(super) fn has_all(&self, target: &Layers) -> bool {
        let layers = [
            (target.common(), self.base.common()),
            (target.own(), self.base.own()),
        ];
        let known =
            |(set, base): &(&Arc<Set>, &Arc<Set>)| self.beside.is_empty() && Arc::ptr_eq(set, base);
        let mut unknown = layers.iter().filter(|pair| !known(pair));
        unknown.all(|(set, _)| set.items().iter().all(|item| self.has(item.name())))
    }

    /// Calls back with each resource of `target` that was not sent as it is there.
    fn differing<'a>(&'a self, target: &'a Layers, found: &mut dyn FnMut(&'a Arc<Item>)) {
        let mut check = |item: &'a Arc<Item>| {
            if !self.beside.contains_key(item.name())
                && self.version(item.name()) != Some(item.version())
            {
                found(item);
            }
        };
        let (common, own) = (self.base.common(), self.base.own());
        target.common().since(common, &mut check, &mut |_| {});
        target.own().since(own, &mut check, &mut |_| {});
        for (name, version) in &self.beside {
            if let Some(item) = target.get(name)
                && version.as_deref() != Some(item.version())
            {
                found(item);
            }
        }
    }

    /// What of `target` the proxy wants and was not sent as it is there.
    pub(super) fn owed(&self, target: &Layers, subscription: &Subscription) -> Load {
        let mut load = Load::default();
        self.differing(target, &mut |item| {
            if subscription.wants(item.name()) {
                load.items.push(item.clone());
            }
        });
        let common = target.common();
        // A few too many, encoded once for all, are cheaper than the right ones for each.
        if load.items.len() >= WORTHWHILE
            && load.items.len() * 4 > common.items().len() * 3
            && subscription.wants_all(common)
        {
            load.items.retain(|item| common.get(item.name()).is_none());
            load.common = Some(common.clone());
        }
        load
    }

    /// Names the proxy holds and `target` does not.
    pub(super) fn gone(&self, target: &Layers) -> Vec<String> {
        let mut names = Vec::new();
        let mut check = |item: &Arc<Item>| {
            let name = item.name();
            if !self.beside.contains_key(name) && target.get(name).is_none() {
                names.push(name.to_owned());
            }
        };
        let (common, own) = (self.base.common(), self.base.own());
        target.common().since(common, &mut |_| {}, &mut check);
        target.own().since(own, &mut |_| {}, &mut check);
        let beside = self.beside.iter();
        let held = beside.filter(|(name, version)| version.is_some() && target.get(name).is_none());
        names.extend(held.map(|(name, _)| name.to_string()));
        names
    }

    /// Notes what was sent.
    pub(super) fn note(&mut self, load: &Load) {
        if let Some(common) = &load.common {
            self.take_common(common.clone());
        }
        for item in &load.items {
            self.put(item);
        }
    }

    /// Everything in `common` was sent.
    fn take_common(&mut self, common: Arc<Set>) {
        self.beside.retain(|name, _| common.get(name).is_none());
        let old = std::mem::take(&mut self.base);
        for item in old.common().items() {
            if common.get(item.name()).is_none() && !self.beside.contains_key(item.name()) {
                let version = Some(item.version().into());
                self.beside.insert(item.name().into(), version);
            }
        }
        // A name that moved from one's own to the common ones has the common version.
        let own = old.own().items().iter();
        let own: Vec<Arc<Item>> = own
            .filter(|item| common.get(item.name()).is_none())
            .cloned()
            .collect();
        let own = if own.len() == old.own().items().len() {
            old.own().clone()
        } else {
            Arc::new(Set::new(own))
        };
        self.base = Layers::new(common, own);
    }

    /// The resource was sent.
    pub(super) fn put(&mut self, item: &Item) {
        self.set(item.name(), Some(item.version()));
    }

    fn set(&mut self, name: &str, version: Option<&str>) {
        if self.base.get(name).map(|item| item.version()) == version {
            self.beside.remove(name);
        } else {
            self.beside.insert(name.into(), version.map(Into::into));
        }
    }

    /// The proxy does not hold it any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.set(name, None);
    }

    /// The proxy holds nothing that `target` does not have.
    pub(super) fn forget_gone(&mut self, target: &Layers) {
        let mut differs = false;
        self.differing(target, &mut |_| differs = true);
        if differs {
            for name in self.gone(target) {
                self.forget(&name);
            }
        } else {
            self.base = target.clone();
            self.beside.clear();
        }
    }

    /// The proxy holds exactly what was sent in one answer.
    pub(super) fn replace(&mut self, items: &[Arc<Item>]) {
        *self = Self::default();
        for item in items {
            self.put(item);
        }
    }

    /// Points to `target` if that is what was sent: most of the time it is, and then a proxy costs nothing.
    pub(super) fn settle(&mut self, target: &Layers) {
        if self.beside.is_empty() && self.base.is(target) {
            return;
        }
        let mut differs = false;
        self.differing(target, &mut |_| differs = true);
        if !differs && self.gone(target).is_empty() {
            self.base = target.clone();
            self.beside.clear();
        }
    }
}
