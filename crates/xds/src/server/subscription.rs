//! Which resources of one kind a stream wants.

use std::collections::BTreeSet;

use super::{Kind, NAME_LENGTH_BOUND, NAMES_BOUND, Refused};

/// The name that stands for all resources of a kind.
const WILDCARD: &str = "*";

/// Names and wildcard of one kind on one stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// A request named something: from then on an empty list means nothing, not everything.
    named_once: bool,
}

/// What a request changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Names wanted now (delta: named in this request, even if they were before).
    pub(super) added: Vec<String>,
    /// Names not wanted any more.
    pub(super) dropped: Vec<String>,
    /// The wildcard was switched on.
    pub(super) wildcard_on: bool,
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
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
        let added = names.difference(&self.names).cloned().collect();
        let dropped = self.names.difference(&names).cloned().collect();
        self.names = names;
        Ok(Change {
            added,
            dropped,
            wildcard_on: self.wildcard && !was_wildcard,
        })
    }

    /// Delta: the request lists additions and removals.
    pub(super) fn change(
        &mut self,
        kind: Kind,
        first: bool,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
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
            } else if self.names.remove(&name) {
                change.dropped.push(name);
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            if !self.names.contains(&name) {
                if self.names.len() >= NAMES_BOUND {
                    return Err(Refused::TooManyNames(kind));
                }
                self.names.insert(name.clone());
            }
            change.added.push(name);
        }
        change.wildcard_on = self.wildcard && !was_wildcard;
        Ok(change)
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
