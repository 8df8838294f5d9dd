//! So many connections at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Refused;
use crate::connection::Connection;
use crate::http::filters::counters::Counters;
use crate::reason::Reason;
use crate::stats::Scope;

const LIMITED: usize = 0;
const ACTIVE: usize = 1;
/// Names of the counters, under `connection_limit.<stat_prefix>.`.
pub const NAMES: &[&str] = &["limited_connections", "active_connections"];

/// The filter.
#[derive(Debug)]
pub struct ConnectionLimit {
    /// The most there may be.
    pub most: u64,
    /// How long one too many is held before it is closed.
    pub delay: Option<Duration>,
    /// It counts.
    pub enabled: bool,
    /// How many there are.
    pub open: Arc<AtomicU64>,
    /// Counters.
    pub counters: Counters,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub struct Counted(Option<(Arc<AtomicU64>, Arc<Scope>)>);

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some((open, scope)) = &self.0 {
            open.fetch_sub(1, Ordering::Relaxed);
            scope.gauge(ACTIVE).add(-1);
        }
    }
}

impl ConnectionLimit {
    /// Takes a place, or refuses after the delay.
    pub(super) async fn admit(&self, connection: &Connection) -> Result<Counted, Refused> {
        if !self.enabled {
            return Ok(Counted(None));
        }
        let scope = self.counters.scope(&connection.worker.shared.stats);
        if self.enter() {
            scope.gauge(ACTIVE).add(1);
            return Ok(Counted(Some((self.open.clone(), scope.clone()))));
        }
        scope.counter(LIMITED).increment();
        if let Some(delay) = self.delay {
            tokio::time::sleep(delay).await;
        }
        Err(Reason::ConnectionLimit.into())
    }

    fn enter(&self) -> bool {
        let next = |open: u64| (open < self.most).then(|| open.saturating_add(1));
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Family;

    #[test]
    fn no_more_enter_than_there_are_places() {
        let limit = ConnectionLimit {
            most: 2,
            delay: None,
            enabled: true,
            open: Arc::default(),
            counters: Counters::new(Family::new("", ""), NAMES),
        };
        assert_eq!(
            [limit.enter(), limit.enter(), limit.enter()],
            [true, true, false]
        );
        limit.open.fetch_sub(1, Ordering::Relaxed);
        assert_eq!([limit.enter(), limit.enter()], [true, false]);
    }
}
