//! Which resources of one kind a stream wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Kind, NAME_LENGTH_BOUND, NAMES_BOUND, Refused};
use crate::target::Set;

/// The name that stands for all resources of a kind.
const WILDCARD: &str = "*";

/// Names and wildcard of one kind on one stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: Names,
    /// A request named something: from then on an empty list means nothing, not everything.
    named_once: bool,
}

/// Names: those of a set that many share, and differences from it.
#[derive(Debug)]
struct Names {
    base: Arc<Set>,
    beside: BTreeMap<Box<str>, bool>,
}

/// What a request changed.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Names wanted now (delta: named in this request, even if they were before).
    pub(super) added: Vec<String>,
    /// Delta: all names of this set are wanted now, too.
    pub(super) added_set: Option<Arc<Set>>,
    /// Names not wanted any more.
    pub(super) dropped: Vec<String>,
    /// The wildcard was switched on.
    pub(super) wildcard_on: bool,
}

// === impl Names ===

impl Names {
    fn contains(&self, name: &str) -> bool {
        match self.beside.get(name) {
            Some(wanted) => *wanted,
            None => self.base.get(name).is_some(),
        }
    }

    /// Never less than there are.
    fn bound(&self) -> usize {
        self.base.items().len() + self.beside.len()
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let base = self.base.items().iter().map(|item| item.name());
        let base = base.filter(|name| !self.beside.contains_key(*name));
        let beside = self.beside.iter().filter(|(_, wanted)| **wanted);
        base.chain(beside.map(|(name, _)| &**name))
    }

    fn put(&mut self, name: &str, wanted: bool) {
        if self.base.get(name).is_some() == wanted {
            self.beside.remove(name);
        } else {
            self.beside.insert(name.into(), wanted);
        }
    }

    fn covers(&self, set: &Arc<Set>) -> bool {
        let same = Arc::ptr_eq(&self.base, set) && self.beside.values().all(|wanted| *wanted);
        same || set.items().iter().all(|item| self.contains(item.name()))
    }

    /// Takes all names of a set, and leaves of `names`, which are in order, those that are not in it. Does
    /// nothing unless every name of the set is in `names` or was wanted before.
    fn take_set(&mut self, set: &Arc<Set>, names: &mut Vec<String>) -> bool {
        let mut listed = names.iter().peekable();
        for item in set.items() {
            while listed.next_if(|name| ***name < *item.name()).is_some() {}
            let named = listed.peek().is_some_and(|name| ***name == *item.name());
            if !named && !self.contains(item.name()) {
                return false;
            }
        }
        names.retain(|name| set.get(name).is_none());
        self.rest_on(set);
        true
    }

    /// Refers to `set`, every name of which is wanted.
    fn rest_on(&mut self, set: &Arc<Set>) {
        if Arc::ptr_eq(&self.base, set) {
            self.beside.retain(|_, wanted| *wanted);
            return;
        }
        let others = self.iter().filter(|name| set.get(name).is_none());
        self.beside = others.map(|name| (name.into(), true)).collect();
        self.base = set.clone();
    }
}

impl Default for Names {
    fn default() -> Self {
        Self {
            base: Set::nothing(),
            beside: BTreeMap::new(),
        }
    }
}

// === impl Subscription ===

impl Subscription {
    /// Names beside the shared ones.
    #[cfg(test)]
    pub(super) fn differences(&self) -> usize {
        self.names.beside.len()
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(super) fn wants_all(&self, set: &Arc<Set>) -> bool {
        self.wildcard || self.names.covers(set)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.wildcard && self.names.iter().next().is_none()
    }

    /// Refers to the newest of the sets that have the names it wants, so that old ones can go.
    pub(super) fn settle(&mut self, common: &Arc<Set>) {
        if !Arc::ptr_eq(&self.names.base, common)
            && !self.names.base.items().is_empty()
            && self.names.covers(common)
        {
            self.names.rest_on(common);
        }
    }

    /// State of the world: the request lists everything wanted.
    pub(super) fn replace(&mut self, kind: Kind, wanted: Vec<String>) -> Result<Change, Refused> {
        check(kind, &wanted)?;
        let was_wildcard = self.wildcard;
        let mut names: BTreeSet<String> = wanted.into_iter().collect();
        let starred = names.remove(WILDCARD);
        if starred || !names.is_empty() {
            self.named_once = true;
        }
        // An empty list before any name means everything, for the two kinds that have no parent.
        self.wildcard = starred || (!self.named_once && names.is_empty() && kind.is_wildcard());
        let added = names.iter().filter(|name| !self.names.contains(name));
        let added = added.cloned().collect();
        let dropped = self.names.iter().filter(|name| !names.contains(*name));
        let dropped = dropped.map(str::to_owned).collect();
        self.names = Names {
            base: Set::nothing(),
            beside: names.into_iter().map(|name| (name.into(), true)).collect(),
        };
        Ok(Change {
            added,
            added_set: None,
            dropped,
            wildcard_on: self.wildcard && !was_wildcard,
        })
    }

    /// Delta: the request lists additions and removals. `common`: names that many streams want.
    pub(super) fn change(
        &mut self,
        kind: Kind,
        first: bool,
        mut subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        common: &Arc<Set>,
    ) -> Result<Change, Refused> {
        check(kind, &subscribe)?;
        check(kind, &unsubscribe)?;
        let was_wildcard = self.wildcard;
        if first && subscribe.is_empty() && kind.is_wildcard() {
            self.wildcard = true;
        }
        let mut change = Change::default();
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            } else if self.names.contains(&name) {
                self.names.put(&name, false);
                change.dropped.push(name);
            }
        }
        if self.names.beside.len() > self.names.base.items().len() {
            self.unshare();
        }
        let many = !common.items().is_empty() && subscribe.len() * 2 > common.items().len();
        if many {
            subscribe.sort_unstable();
            if self.names.take_set(common, &mut subscribe) {
                change.added_set = Some(common.clone());
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            if !self.names.contains(&name) {
                if self.names.bound() >= NAMES_BOUND {
                    return Err(Refused::TooManyNames(kind));
                }
                self.names.put(&name, true);
            }
            change.added.push(name);
        }
        change.wildcard_on = self.wildcard && !was_wildcard;
        Ok(change)
    }

    /// Most names of the shared set are not wanted any more.
    fn unshare(&mut self) {
        if self.names.base.items().is_empty() {
            return;
        }
        let names = self.names.iter().map(|name| (name.into(), true));
        self.names = Names {
            beside: names.collect(),
            base: Set::nothing(),
        };
    }
}

fn check(kind: Kind, names: &[String]) -> Result<(), Refused> {
    if names.len() > NAMES_BOUND {
        return Err(Refused::TooManyNames(kind));
    }
    if names.iter().any(|name| name.len() > NAME_LENGTH_BOUND) {
        return Err(Refused::NameTooLong(kind));
    }
    Ok(())
}
