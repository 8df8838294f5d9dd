//! Endpoints that serve.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use lb::outlier::Monitor;
use tokio::sync::Notify;

use super::config::{EndpointConfig, Reported};
use crate::http::pool::Pools;
use crate::stats::Counter;

/// An endpoint that serves. Its pools die with it: a removed endpoint drains by itself.
#[derive(Debug)]
pub struct Endpoint {
    /// As configured when it was first seen: weight, priority, locality and reported health are the member's.
    pub config: EndpointConfig,
    /// Requests or opaque connections in flight.
    pub active: AtomicU32,
    /// Connections open, of all workers.
    pub connections: AtomicU32,
    /// HTTP connections.
    pub pools: Pools,
    /// What came of requests and connections.
    pub stats: EndpointStats,
    /// What outlier detection counts.
    pub monitor: Monitor,
    flags: AtomicU8,
    /// Grows when connections opened so far are to be closed.
    epoch: AtomicU32,
    closing: Notify,
}

/// Counters of an endpoint.
#[derive(Debug, Default)]
pub struct EndpointStats {
    /// Requests or opaque connections it was chosen for.
    pub requests: Counter,
    /// Requests answered without a server error.
    pub successes: Counter,
    /// Requests that failed.
    pub errors: Counter,
    /// Requests that timed out.
    pub timeouts: Counter,
    /// Connections opened.
    pub connections: Counter,
    /// Connections that failed to open.
    pub connect_failures: Counter,
}

/// Something that is known of an endpoint, by Envoy's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// Its active health checks fail.
    FailedActiveCheck = 1,
    /// It is ejected as an outlier.
    FailedOutlierCheck = 1 << 1,
    /// The control plane says that it is unhealthy.
    FailedEds = 1 << 2,
    /// The control plane says that it is degraded.
    DegradedEds = 1 << 3,
    /// The control plane says that it drains.
    DrainingEds = 1 << 4,
    /// It was not checked yet.
    PendingActiveCheck = 1 << 5,
    /// It left the configuration and is used as long as its checks pass.
    PendingRemoval = 1 << 6,
    /// It left the configuration: its connections end when they are idle.
    Removed = 1 << 7,
}

/// What may be expected of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It is used.
    Healthy,
    /// It is used where the healthy ones do not suffice.
    Degraded,
    /// It is used in panic only.
    Unhealthy,
}

// === impl Flag ===

impl Flag {
    const UNHEALTHY: u8 = Flag::FailedActiveCheck as u8
        | Flag::FailedOutlierCheck as u8
        | Flag::FailedEds as u8
        | Flag::DrainingEds as u8;
    const EDS: u8 = Flag::FailedEds as u8 | Flag::DegradedEds as u8 | Flag::DrainingEds as u8;

    /// All that the administration shows, with Envoy's text.
    const SHOWN: [(Flag, &'static str); 7] = [
        (Flag::FailedActiveCheck, "/failed_active_hc"),
        (Flag::FailedOutlierCheck, "/failed_outlier_check"),
        (Flag::FailedEds, "/failed_eds_health"),
        (Flag::DegradedEds, "/degraded_eds_health"),
        (Flag::PendingRemoval, "/pending_dynamic_removal"),
        (Flag::PendingActiveCheck, "/pending_active_hc"),
        (Flag::DrainingEds, "/eds_status_draining"),
    ];
}

// === impl Endpoint ===

impl Endpoint {
    /// An endpoint without connections, for this many workers.
    pub fn new(config: EndpointConfig, workers: usize) -> Endpoint {
        Endpoint {
            config,
            active: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            pools: Pools::new(workers),
            stats: EndpointStats::default(),
            monitor: Monitor::default(),
            flags: AtomicU8::new(0),
            epoch: AtomicU32::new(0),
            closing: Notify::new(),
        }
    }

    /// An endpoint at an original destination.
    pub fn original(address: SocketAddr, workers: usize) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(EndpointConfig::plain(address), workers))
    }

    /// The same endpoint with what is known of it, but without its connections.
    pub(super) fn renewed(old: &Endpoint, workers: usize) -> Endpoint {
        let renewed = Endpoint::new(old.config.clone(), workers);
        let flags = old.flags.load(Ordering::Relaxed) & !(Flag::Removed as u8);
        renewed.flags.store(flags, Ordering::Relaxed);
        renewed
    }

    /// Whether something is known of it.
    pub fn has(&self, flag: Flag) -> bool {
        self.flags.load(Ordering::Relaxed) & flag as u8 != 0
    }

    /// Whether it left the configuration: idle connections to it are to be closed.
    pub fn is_removed(&self) -> bool {
        self.has(Flag::Removed)
    }

    /// Has its connections closed: its health failed.
    pub(super) fn close_connections(&self) {
        self.pools.clear();
        self.epoch.fetch_add(1, Ordering::Release);
        self.closing.notify_waiters();
    }

    /// Changes when connections opened so far are to be closed.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Completes when connections opened in this epoch are to be closed.
    pub async fn closing(&self, opened: u32) {
        loop {
            // Listen first, look then: what is told in between is not missed.
            let mut told = std::pin::pin!(self.closing.notified());
            told.as_mut().enable();
            if self.epoch() != opened {
                return;
            }
            told.await;
        }
    }

    /// Notes something; yields whether it was otherwise before.
    pub(super) fn set(&self, flag: Flag, on: bool) -> bool {
        let bit = flag as u8;
        let before = if on {
            self.flags.fetch_or(bit, Ordering::Relaxed)
        } else {
            self.flags.fetch_and(!bit, Ordering::Relaxed)
        };
        (before & bit != 0) != on
    }

    /// Notes what the control plane says.
    pub(super) fn reported(&self, health: Reported) {
        let bits = match health {
            Reported::Healthy => 0,
            Reported::Degraded => Flag::DegradedEds as u8,
            Reported::Unhealthy => Flag::FailedEds as u8,
            Reported::Draining => Flag::DrainingEds as u8,
        };
        self.flags.fetch_and(!Flag::EDS | bits, Ordering::Relaxed);
        self.flags.fetch_or(bits, Ordering::Relaxed);
    }

    /// What may be expected of it.
    pub fn health(&self) -> Health {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & Flag::UNHEALTHY != 0 {
            Health::Unhealthy
        } else if flags & Flag::DegradedEds as u8 != 0 {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// What is known of it, as Envoy's `/clusters` writes it.
    pub fn health_flags(&self) -> String {
        let shown = Flag::SHOWN.iter().filter(|(flag, _)| self.has(*flag));
        let text: String = shown.map(|(_, text)| *text).collect();
        if text.is_empty() {
            "healthy".to_owned()
        } else {
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_health_and_text() {
        let endpoint = Endpoint::original(SocketAddr::from(([127, 0, 0, 1], 80)), 1);
        assert_eq!(
            (endpoint.health(), endpoint.health_flags().as_str()),
            (Health::Healthy, "healthy")
        );
        endpoint.reported(Reported::Degraded);
        assert_eq!(endpoint.health(), Health::Degraded);
        assert!(endpoint.set(Flag::FailedActiveCheck, true));
        assert!(!endpoint.set(Flag::FailedActiveCheck, true));
        assert_eq!(endpoint.health(), Health::Unhealthy);
        assert_eq!(
            endpoint.health_flags(),
            "/failed_active_hc/degraded_eds_health"
        );
        endpoint.reported(Reported::Draining);
        assert!(endpoint.set(Flag::FailedActiveCheck, false));
        assert_eq!(endpoint.health_flags(), "/eds_status_draining");
        endpoint.reported(Reported::Healthy);
        assert_eq!(endpoint.health(), Health::Healthy);
    }
}
