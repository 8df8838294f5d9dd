//! Endpoints that serve.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::config::EndpointConfig;
use crate::http::pool::Pools;
use crate::stats::Counter;

/// An endpoint that serves. Its pools die with it: a removed endpoint drains by itself.
#[derive(Debug)]
pub struct Endpoint {
    /// As configured.
    pub config: EndpointConfig,
    /// Requests or opaque connections in flight.
    pub active: AtomicU32,
    /// Connections open, of all workers.
    pub connections: AtomicU32,
    /// HTTP connections.
    pub pools: Pools,
    /// What came of requests and connections.
    pub stats: EndpointStats,
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
        }
    }

    /// An endpoint for one connection to an original destination.
    pub fn original(address: SocketAddr) -> Arc<Endpoint> {
        let config = EndpointConfig {
            address,
            hostname: String::new(),
            weight: 1,
            priority: 0,
            healthy: true,
        };
        Arc::new(Endpoint::new(config, 1))
    }

    /// Requests in flight, against the weight.
    pub(super) fn load(&self) -> u64 {
        u64::from(self.active.load(Ordering::Relaxed)).saturating_mul(1 << 16)
            / u64::from(self.config.weight.max(1))
    }
}
