//! What all connections share: the snapshot, counters, the log, limits.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::access::AccessLog;
use crate::bell::Bell;
use crate::overload::Overload;
use crate::snapshot::Snapshot;
use crate::spans::Tracers;
use crate::stats::Stats;
use crate::tls::OwnCertificate;

/// Shared by all workers and the control thread.
#[derive(Debug)]
pub struct Shared {
    /// The configuration that serves.
    pub snapshot: ArcSwap<Snapshot>,
    /// Counters.
    pub stats: Arc<Stats>,
    /// The access log.
    pub log: AccessLog,
    /// The proxy's own certificate.
    pub own: Arc<OwnCertificate>,
    /// Rings when connections are to end: idle ones at once, others when they have finished what they are at.
    /// Before that, in [`Phase::Draining`], a connection leaves after its next response ([`Shared::is_draining`]).
    pub drain: Bell,
    /// When the proxy started.
    pub started: Instant,
    draining: AtomicBool,
    unhealthy: AtomicBool,
    /// The node's own service cluster, set once at the start.
    pub service_cluster: OnceLock<String>,
    /// Where spans go.
    pub tracers: Tracers,
    /// What is scarce, and what is done about it.
    pub overload: Overload,
    connections: AtomicUsize,
    connection_limit: usize,
}

/// The way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not ready any more; new connections are still taken, since clients learn of it only by and by.
    Draining,
    /// No new connections; the open ones end.
    Closing,
}

/// One worker: an event loop on a thread of its own.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its number, from 0: which of an endpoint's pools is its own.
    pub index: usize,
    /// Shared by all.
    pub shared: Arc<Shared>,
}

/// A connection's place under the limit, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Shared>);

impl Shared {
    /// State of a proxy without configuration yet.
    pub fn new(
        stats: Arc<Stats>,
        log: AccessLog,
        own: Arc<OwnCertificate>,
        connection_limit: usize,
    ) -> Shared {
        Shared {
            snapshot: ArcSwap::default(),
            stats,
            log,
            own,
            drain: Bell::default(),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            unhealthy: AtomicBool::new(false),
            service_cluster: OnceLock::new(),
            tracers: Tracers::default(),
            overload: Overload::default(),
            connections: AtomicUsize::new(0),
            connection_limit,
        }
    }

    /// Takes a place for a connection, if there is one; `beyond` takes it in any case.
    pub fn enter(self: &Arc<Self>, beyond: bool) -> Option<Place> {
        let open = self.connections.fetch_add(1, Ordering::Relaxed);
        if open >= self.connection_limit && !beyond {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(self.clone()))
    }

    /// Goes on towards the end; there is no way back.
    pub fn enter_phase(&self, phase: Phase) {
        self.draining.store(true, Ordering::Relaxed);
        if phase == Phase::Closing {
            self.drain.ring();
        }
    }

    /// Fails the health check, or lets it pass again.
    pub fn fail_health(&self, fail: bool) {
        self.unhealthy.store(fail, Ordering::Relaxed);
    }

    /// Whether health checks are to fail: the administrator wants it so.
    pub fn is_failing(&self) -> bool {
        self.unhealthy.load(Ordering::Relaxed)
    }

    /// Whether clients are to leave: HTTP/1 responses carry `Connection: close`, HTTP/2 connections get a GOAWAY.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed) || self.unhealthy.load(Ordering::Relaxed)
    }

    /// The node's own service cluster; empty where none is configured.
    pub fn service_cluster(&self) -> &str {
        self.service_cluster.get().map_or("", String::as_str)
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An unpredictable enough number for balancing and request ids; not for secrets.
pub fn roll() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()) | 1);
    }
    STATE.with(|state| {
        // xorshift64*: https://vigna.di.unimi.it/ftp/papers/xorshift.pdf
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    })
}

/// A random UUID (version 4), the form of Envoy's request ids.
pub fn request_id() -> String {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    // RFC 9562 §5.4: version 4, variant 10. Without formatting: every request without an id gets one.
    let a = roll() & !0xf000 | 0x4000;
    let b = roll() & !(0b11 << 62) | (0b10 << 62);
    let mut digits = (u128::from(a) << 64) | u128::from(b);
    let mut id = String::with_capacity(36);
    for place in 0..36 {
        if HYPHENS.contains(&place) {
            id.push('-');
            continue;
        }
        digits = digits.rotate_left(4);
        let digit = u32::try_from(digits & 0xf).unwrap_or_default();
        id.push(char::from_digit(digit, 16).unwrap_or('0'));
    }
    id
}

#[cfg(test)]
mod tests {
    #[test]
    fn request_ids_have_the_form_of_a_uuid() {
        let id = super::request_id();
        assert_eq!(
            id.split('-').map(str::len).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12],
            "{id}"
        );
        assert_eq!(&id[14..15], "4", "{id}");
        assert!("89ab".contains(&id[19..20]), "{id}");
        assert_ne!(id, super::request_id());
    }
}
