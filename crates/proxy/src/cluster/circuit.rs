//! The circuit of a cluster: requests are answered in its place while it is broken. Shared by all workers.

use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;

/// When errors or slow answers break a cluster's circuit, and what is answered then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// When it breaks and for how long.
    pub settings: lb::circuit::Settings,
    /// The answer while it is broken.
    pub degraded: Degraded,
}

/// The answer to a request that is not sent because the circuit is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Degraded {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// The state of a cluster's circuit.
#[derive(Debug)]
pub struct Circuit {
    settings: lb::circuit::Settings,
    state: Mutex<lb::circuit::Circuit>,
}

// === impl Circuit ===

impl Circuit {
    /// A circuit that is whole.
    pub fn new(config: &CircuitBreaker) -> Circuit {
        Circuit {
            settings: config.settings,
            state: Mutex::default(),
        }
    }

    /// Whether an attempt may be made.
    pub fn admits(&self, now: Instant) -> bool {
        self.state.lock().admits(&self.settings, now)
    }

    /// Counts an attempt that has come to an end.
    pub fn record(&self, cluster: &str, begun: Instant, is_error: bool) {
        let now = Instant::now();
        let took = now.saturating_duration_since(begun);
        let broken = self
            .state
            .lock()
            .record(&self.settings, now, is_error, took);
        if let Some(window) = broken {
            let (total, errors, slow) = (window.total, window.errors, window.slow);
            tracing::warn!(%cluster, total, errors, slow, "circuit broken");
        }
    }
}
