//! Circuit breakers: how much load a cluster takes at once. Shared by all workers, by relaxed atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Cluster, Endpoint};

/// The routing priority of a request, which has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutingPriority {
    /// Envoy's DEFAULT.
    #[default]
    Default,
    /// Envoy's HIGH.
    High,
}

/// The limits of one routing priority.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Connections open at once.
    pub connections: u32,
    /// Requests that wait for a connection at once.
    pub pending: u32,
    /// Requests in flight at once.
    pub requests: u32,
    /// Retries in flight at once.
    pub retries: RetryLimit,
    /// What is left is shown in the statistics.
    pub track_remaining: bool,
}

/// How many retries may be in flight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RetryLimit {
    /// So many.
    Count(u32),
    /// A share of the requests in flight and waiting.
    Budget {
        /// The share, 0 to 100.
        percent: f64,
        /// So many are allowed however few requests there are.
        least: u32,
    },
}

/// The limits of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Thresholds {
    /// For requests of default priority.
    pub default: Limits,
    /// For requests of high priority.
    pub high: Limits,
    /// Connections open at once to each endpoint.
    pub connections_per_endpoint: Option<u32>,
}

/// The load of one routing priority against its limits.
#[derive(Debug)]
pub struct Breaker {
    /// Its limits.
    pub limits: Limits,
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

/// The breakers of a cluster.
#[derive(Debug)]
pub struct Breakers {
    default: Breaker,
    high: Breaker,
    per_endpoint: Option<u32>,
}

/// A limit is reached: the request or connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a circuit breaker is open")]
pub struct Overflow;

/// A place among a cluster's connections, given back when dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    priority: RoutingPriority,
}

/// A place among the requests that wait for a connection, given back when dropped.
#[derive(Debug)]
pub struct Pending {
    cluster: Arc<Cluster>,
    priority: RoutingPriority,
}

/// A place among the retries in flight, given back when dropped.
#[derive(Debug)]
pub struct Retry {
    cluster: Arc<Cluster>,
    priority: RoutingPriority,
}

// === impl Limits ===

impl Default for Limits {
    /// Envoy's defaults.
    fn default() -> Limits {
        Limits {
            connections: 1024,
            pending: 1024,
            requests: 1024,
            retries: RetryLimit::Count(3),
            track_remaining: false,
        }
    }
}

// === impl Breaker ===

impl Breaker {
    fn new(limits: Limits) -> Breaker {
        Breaker {
            limits,
            connections: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            retries: AtomicU32::new(0),
        }
    }

    /// How many retries may be in flight now.
    fn most_retries(&self) -> u32 {
        match self.limits.retries {
            RetryLimit::Count(count) => count,
            RetryLimit::Budget { percent, least } => {
                let load = f64::from(load(&self.requests)) + f64::from(load(&self.pending));
                // Saturates, and a NaN would be 0.
                least.max((load * percent / 100.0) as u32)
            }
        }
    }

    /// Name, number in use, limit and, if it is shown, what is left, in Envoy's words.
    pub fn gauges(&self) -> [(&'static str, u32, u32); 4] {
        [
            ("cx", load(&self.connections), self.limits.connections),
            ("rq_pending", load(&self.pending), self.limits.pending),
            ("rq", load(&self.requests), self.limits.requests),
            ("rq_retry", load(&self.retries), self.most_retries()),
        ]
    }
}

fn load(count: &AtomicU32) -> u32 {
    count.load(Ordering::Relaxed)
}

/// Takes a place if fewer than `limit` are taken.
fn enter(count: &AtomicU32, limit: u32) -> Result<(), Overflow> {
    if count.fetch_add(1, Ordering::Relaxed) >= limit {
        leave(count);
        return Err(Overflow);
    }
    Ok(())
}

fn leave(count: &AtomicU32) {
    count.fetch_sub(1, Ordering::Relaxed);
}

// === impl Breakers ===

impl Breakers {
    /// Breakers without load.
    pub fn new(thresholds: Thresholds) -> Breakers {
        Breakers {
            default: Breaker::new(thresholds.default),
            high: Breaker::new(thresholds.high),
            per_endpoint: thresholds.connections_per_endpoint,
        }
    }

    /// That of a priority.
    pub fn of(&self, priority: RoutingPriority) -> &Breaker {
        match priority {
            RoutingPriority::Default => &self.default,
            RoutingPriority::High => &self.high,
        }
    }

    pub(super) fn enter_request(&self, priority: RoutingPriority) -> Result<(), Overflow> {
        let breaker = self.of(priority);
        enter(&breaker.requests, breaker.limits.requests)
    }

    pub(super) fn leave_request(&self, priority: RoutingPriority) {
        leave(&self.of(priority).requests);
    }
}

// === impl Cluster ===

impl Cluster {
    /// A place for one more connection to an endpoint. `needed`: the caller's pool has no connection at all, so that
    /// its requests would wait for ever; then the limit is passed over, as Envoy does.
    pub fn connection_slot(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        priority: RoutingPriority,
        needed: bool,
    ) -> Result<ConnectionSlot, Overflow> {
        let breaker = self.breakers.of(priority);
        let limit = breaker.limits.connections;
        let most = self.breakers.per_endpoint.unwrap_or(u32::MAX);
        let taken = enter(&breaker.connections, limit).and_then(|()| {
            enter(&endpoint.connections, most).inspect_err(|_| leave(&breaker.connections))
        });
        if let Err(overflow) = taken {
            self.stats.connection_overflow.increment();
            if !needed {
                return Err(overflow);
            }
            breaker.connections.fetch_add(1, Ordering::Relaxed);
            endpoint.connections.fetch_add(1, Ordering::Relaxed);
        }
        Ok(ConnectionSlot {
            cluster: self.clone(),
            endpoint: endpoint.clone(),
            priority,
        })
    }

    /// A place for a request that has to wait for a connection.
    pub fn pending(self: &Arc<Self>, priority: RoutingPriority) -> Result<Pending, Overflow> {
        let breaker = self.breakers.of(priority);
        if let Err(overflow) = enter(&breaker.pending, breaker.limits.pending) {
            self.stats.pending_overflow.increment();
            return Err(overflow);
        }
        self.stats.pending.increment();
        self.stats.pending_active.add(1);
        Ok(Pending {
            cluster: self.clone(),
            priority,
        })
    }

    /// A place for a retry, held while it is under way.
    pub fn retry(self: &Arc<Self>, priority: RoutingPriority) -> Result<Retry, Overflow> {
        let breaker = self.breakers.of(priority);
        if let Err(overflow) = enter(&breaker.retries, breaker.most_retries()) {
            self.stats.retry_overflow.increment();
            return Err(overflow);
        }
        self.stats.retries.increment();
        Ok(Retry {
            cluster: self.clone(),
            priority,
        })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        leave(&self.cluster.breakers.of(self.priority).connections);
        leave(&self.endpoint.connections);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        leave(&self.cluster.breakers.of(self.priority).pending);
        self.cluster.stats.pending_active.add(-1);
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        leave(&self.cluster.breakers.of(self.priority).retries);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assignment, cluster_with, endpoint};
    use super::*;

    fn limited(limits: Limits) -> (Arc<Cluster>, Arc<Endpoint>) {
        let cluster = cluster_with(|config| {
            config.thresholds.default = limits;
            config.thresholds.connections_per_endpoint = Some(2);
        });
        cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
        let endpoint = cluster.endpoints.load().all[0].endpoint.clone();
        (cluster, endpoint)
    }

    #[test]
    fn each_limit_holds_at_its_number_and_places_come_back() {
        let (cluster, endpoint) = limited(Limits {
            connections: 3,
            pending: 1,
            requests: 2,
            ..Limits::default()
        });
        let slot = |needed| cluster.connection_slot(&endpoint, RoutingPriority::Default, needed);
        let one = slot(false).unwrap();
        let two = slot(false).unwrap();
        assert_eq!(slot(false).unwrap_err(), Overflow, "per endpoint");
        let forced = slot(true).unwrap();
        drop((one, forced));
        let three = slot(false).unwrap();
        drop((two, three));
        assert_eq!(cluster.stats.connection_overflow.get(), 2);
        let gauges = cluster.breakers.of(RoutingPriority::Default).gauges();
        assert_eq!(gauges[0], ("cx", 0, 3));

        let waiting = cluster.pending(RoutingPriority::Default).unwrap();
        assert!(cluster.pending(RoutingPriority::Default).is_err());
        assert!(cluster.pending(RoutingPriority::High).is_ok());
        drop(waiting);
        assert!(cluster.pending(RoutingPriority::Default).is_ok());
        assert_eq!(cluster.stats.pending_active.get(), 0);
    }

    #[test]
    fn retries_are_counted_or_a_share_of_the_load() {
        let (cluster, _) = limited(Limits {
            retries: RetryLimit::Budget {
                percent: 20.0,
                least: 2,
            },
            ..Limits::default()
        });
        let retry = || cluster.retry(RoutingPriority::Default);
        let few = [retry().unwrap(), retry().unwrap()];
        assert!(retry().is_err(), "the least that is allowed");
        for _ in 0..15 {
            cluster
                .breakers
                .enter_request(RoutingPriority::Default)
                .unwrap();
        }
        let third = retry().unwrap();
        assert!(retry().is_err(), "20 % of 15");
        drop((few, third));
        assert!(retry().is_ok());
        assert_eq!(cluster.stats.retry_overflow.get(), 2);
    }
}
