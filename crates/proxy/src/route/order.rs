//! Routes in order, with short cuts to those that can match a path at all.

use std::collections::HashMap;
use std::sync::Arc;

use super::Route;
use super::condition::first_segment;

/// From how many routes on the short cuts pay for their hashing.
const MANY: usize = 8;

/// A virtual host's routes: the first that matches counts.
#[derive(Debug, Default)]
pub struct Routes {
    all: Vec<Arc<Route>>,
    index: Option<Index>,
}

/// Positions of routes, in order within each list.
#[derive(Debug, Default)]
struct Index {
    /// Of those that match one path only.
    exact: HashMap<String, Vec<usize>>,
    /// Of those that match paths with one first segment only.
    segment: HashMap<String, Vec<usize>>,
    /// Of all others.
    rest: Vec<usize>,
}

// === impl Routes ===

impl Routes {
    /// Routes in this order.
    pub fn new(all: Vec<Arc<Route>>) -> Routes {
        let index = (all.len() >= MANY).then(|| Index::new(&all));
        Routes { all, index }
    }

    /// All of them.
    pub fn all(&self) -> &[Arc<Route>] {
        &self.all
    }

    /// The first that may match the path and of which `matches` holds.
    pub fn find(&self, path: &str, matches: impl Fn(&Route) -> bool) -> Option<&Arc<Route>> {
        match &self.index {
            None => self.all.iter().find(|route| matches(route)),
            Some(index) => index
                .candidates(path)
                .filter_map(|position| self.all.get(position))
                .find(|route| matches(route)),
        }
    }
}

impl From<Vec<Arc<Route>>> for Routes {
    fn from(all: Vec<Arc<Route>>) -> Routes {
        Routes::new(all)
    }
}

// === impl Index ===

impl Index {
    fn new(all: &[Arc<Route>]) -> Index {
        let mut index = Index::default();
        for (position, route) in all.iter().enumerate() {
            let path = &route.condition.path;
            let list = if let Some(exact) = path.exact() {
                index.exact.entry(exact.to_owned()).or_default()
            } else if let Some(segment) = path.first_segment() {
                index.segment.entry(segment.to_owned()).or_default()
            } else {
                &mut index.rest
            };
            list.push(position);
        }
        index
    }

    /// The routes that may match, in order.
    fn candidates(&self, path: &str) -> impl Iterator<Item = usize> {
        let segment = first_segment(path).and_then(|segment| self.segment.get(segment));
        let mut lists = [
            self.exact.get(path).map_or(&[][..], Vec::as_slice),
            segment.map_or(&[][..], Vec::as_slice),
            self.rest.as_slice(),
        ];
        std::iter::from_fn(move || {
            let next = lists
                .iter()
                .filter_map(|list| list.first())
                .min()
                .copied()?;
            for list in &mut lists {
                if let Some((first, rest)) = list.split_first()
                    && *first == next
                {
                    *list = rest;
                }
            }
            Some(next)
        })
    }
}
