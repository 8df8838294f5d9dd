//! A work queue: each key is worked on by one worker at a time, failures come back later and later
//!
//! The queue is a set, so it is bounded by the number of objects.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::key::Failure;

/// What follows after a key was worked on without error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing, until an event adds the key again.
    Wait,
    /// Look again after this time.
    After(Duration),
}

/// First pause after a failure; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: a cluster that was broken for long recovers within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Keys worked on at once: one slow webhook must not hold up every other object.
const WORKERS: usize = 8;

/// Keys waiting for work.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    due: HashMap<K, Instant>,
    running: HashSet<K>,
    failures: HashMap<K, u32>,
}

// === impl Queue ===

impl<K: Clone + Eq + Hash> Queue<K> {
    pub fn new() -> Arc<Self> {
        let state = State {
            due: HashMap::new(),
            running: HashSet::new(),
            failures: HashMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    /// Has the key worked on as soon as a worker is free.
    pub fn add(&self, key: K) {
        self.add_after(key, Duration::ZERO);
    }

    /// Has the key worked on after the time, or earlier if it was to be already.
    pub fn add_after(&self, key: K, pause: Duration) {
        let at = Instant::now() + pause;
        self.with(|state| {
            state
                .due
                .entry(key)
                .and_modify(|due| *due = at.min(*due))
                .or_insert(at);
        });
        self.changed.notify_one();
    }

    /// The next key that is due; it is not given out again before [`Queue::done`]. One consumer only. Cancel safe.
    pub async fn next(&self) -> K {
        loop {
            let earliest = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                match state.earliest() {
                    Some((key, at)) if at <= Instant::now() => {
                        state.due.remove(&key);
                        state.running.insert(key.clone());
                        return key;
                    }
                    other => other.map(|(_, at)| at),
                }
            };
            match earliest {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Ends the work on a key; after a failure the key comes back, with a growing pause.
    pub fn done(&self, key: K, outcome: Result<Next, ()>) {
        let pause = self.with(|state| {
            state.running.remove(&key);
            match outcome {
                Ok(next) => {
                    state.failures.remove(&key);
                    match next {
                        Next::Wait => None,
                        Next::After(pause) => Some(pause),
                    }
                }
                Err(()) => {
                    let failures = state.failures.entry(key.clone()).or_insert(0);
                    let pause = FIRST_PAUSE
                        .saturating_mul(1 << (*failures).min(16))
                        .min(LONGEST_PAUSE);
                    *failures = failures.saturating_add(1);
                    Some(pause)
                }
            }
        });
        match pause {
            Some(pause) => self.add_after(key, pause),
            None => self.changed.notify_one(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State<K>) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn earliest(&self) -> Option<(K, Instant)> {
        let waiting = self
            .due
            .iter()
            .filter(|(key, _)| !self.running.contains(*key));
        waiting
            .min_by_key(|(_, at)| **at)
            .map(|(key, at)| (key.clone(), *at))
    }
}

/// Works on the queue's keys for ever.
pub(crate) async fn work<K, F, Fut>(controller: &'static str, queue: Arc<Queue<K>>, reconcile: F)
where
    K: Clone + Eq + Hash + std::fmt::Display,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Next, Failure>>,
{
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            key = queue.next(), if running.len() < WORKERS => {
                let work = reconcile(key.clone());
                running.push(async move { (key, work.await) });
            }
            Some((key, outcome)) = running.next() => {
                match &outcome {
                    Ok(_) => {}
                    Err(failure) if failure.is_conflict() => debug!(controller, %key, %failure, "trying again"),
                    Err(failure) => warn!(controller, %key, %failure, "trying again"),
                }
                queue.done(key, outcome.map_err(|_| ()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// The key that is due now, if any.
    fn due(queue: &Queue<&'static str>) -> Option<&'static str> {
        queue.next().now_or_never()
    }

    fn pause(queue: &Queue<&'static str>) -> Duration {
        queue
            .with(|state| state.earliest())
            .map(|(_, at)| at.saturating_duration_since(Instant::now()))
            .unwrap()
    }

    #[tokio::test]
    async fn a_key_added_twice_is_given_out_once() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(due(&queue), Some("a"));
        assert_eq!(due(&queue), None);
    }

    #[tokio::test]
    async fn a_key_added_while_it_is_worked_on_comes_again_afterwards() {
        let queue = Queue::new();
        queue.add("a");
        assert_eq!(due(&queue), Some("a"));
        queue.add("a");
        assert_eq!(due(&queue), None);
        queue.done("a", Ok(Next::Wait));
        assert_eq!(due(&queue), Some("a"));
    }

    #[tokio::test]
    async fn failures_come_back_later_and_later_up_to_the_longest_pause() {
        let queue = Queue::new();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            queue.done("a", Err(()));
            pauses.push(pause(&queue));
            queue.with(|state| state.due.clear());
        }
        assert!(
            pauses
                .windows(2)
                .all(|pair| pair[0] <= pair[1] + FIRST_PAUSE / 10),
            "{pauses:?}"
        );
        assert!(
            pauses[0] <= FIRST_PAUSE
                && pauses[11] > LONGEST_PAUSE / 2
                && pauses[11] <= LONGEST_PAUSE,
            "{pauses:?}"
        );
        queue.done("a", Ok(Next::Wait));
        queue.done("a", Err(()));
        assert!(pause(&queue) <= FIRST_PAUSE);
    }

    #[tokio::test]
    async fn an_earlier_time_wins_over_a_later_one() {
        let queue = Queue::new();
        for seconds in [100, 1, 50] {
            queue.add_after("a", Duration::from_secs(seconds));
        }
        assert!(pause(&queue) <= Duration::from_secs(1));
    }
}
