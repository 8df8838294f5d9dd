//! Counters under Envoy's names, and their text forms.
//!
//! A group of counters is a struct, made with `group!`, whose fields are relaxed atomics: whoever counts holds an
//! `Arc` of it, resolved when the configuration is applied; nothing is looked up on the request path. A filter whose
//! counters only it knows takes a [`Scope`]. Names and labels come from configuration only, so they are bounded.

mod groups;
mod histogram;
mod number;
mod page;
mod sample;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

pub use groups::{ClusterStats, Group, HttpStats, ListenerStats, ServerStats, TcpStats, Visit};
pub use histogram::Histogram;
pub use number::{Classes, Counter, Gauge, Metric, Value};
pub use page::{Filter, json, plain, prometheus};
pub use sample::{Family, Sample, Samples};

use crate::reason::Reason;

/// Names that nothing uses any more are let go when there are this many: listeners come and go.
const MANY: usize = 1024;

/// All counters of the proxy.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    /// The proxy itself.
    pub server: ServerStats,
    refusals: [Counter; Reason::ALL.len()],
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerStats>>>,
    http: Mutex<BTreeMap<Arc<str>, Arc<HttpStats>>>,
    tcp: Mutex<BTreeMap<Arc<str>, Arc<TcpStats>>>,
    scopes: Mutex<BTreeMap<String, Arc<Scope>>>,
}

/// Counters that only their owner knows: a filter's.
#[derive(Debug)]
pub struct Scope {
    family: Family,
    names: &'static [&'static str],
    counters: Box<[Counter]>,
    /// At the places whose names say that they are gauges.
    gauges: Box<[Gauge]>,
}

// === impl Scope ===

impl Scope {
    /// The counter at this place of the names; past their end one that nobody reads.
    pub fn counter(&self, index: usize) -> &Counter {
        static NOWHERE: Counter = Counter::new();
        self.counters.get(index).unwrap_or(&NOWHERE)
    }

    /// The gauge at this place of the names, which must contain `active`.
    pub fn gauge(&self, index: usize) -> &Gauge {
        static NOWHERE: Gauge = Gauge::new();
        self.gauges.get(index).unwrap_or(&NOWHERE)
    }

    /// Adds what was counted.
    fn sample(&self, samples: &mut Samples) {
        let numbers = self.counters.iter().zip(&self.gauges);
        for (name, (counter, gauge)) in self.names.iter().zip(numbers) {
            match name.contains("active") {
                true => samples.metric(&self.family, name, gauge),
                false => samples.metric(&self.family, name, counter),
            }
        }
    }
}

// === impl Stats ===

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            started: Instant::now(),
            server: ServerStats::default(),
            refusals: [const { Counter::new() }; Reason::ALL.len()],
            listeners: Mutex::default(),
            http: Mutex::default(),
            tcp: Mutex::default(),
            scopes: Mutex::default(),
        }
    }
}

impl Stats {
    /// The counters of a listener, `listener.<name>.`; made at its first sight.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerStats> {
        shared(&self.listeners, name)
    }

    /// The counters of HTTP connection managers with this `stat_prefix`, `http.<prefix>.`.
    pub fn http(&self, prefix: &Arc<str>) -> Arc<HttpStats> {
        shared(&self.http, prefix)
    }

    /// The counters of TCP proxies with this `stat_prefix`, `tcp.<prefix>.`.
    pub fn tcp(&self, prefix: &Arc<str>) -> Arc<TcpStats> {
        shared(&self.tcp, prefix)
    }

    /// Counters of a filter, one per name. The same family gives the same counters.
    pub fn scope(&self, family: Family, names: &'static [&'static str]) -> Arc<Scope> {
        let mut scopes = self.scopes.lock();
        if scopes.len() >= MANY {
            scopes.retain(|_, scope| Arc::strong_count(scope) > 1);
        }
        let scope = scopes.entry(family.plain.clone()).or_insert_with(|| {
            Arc::new(Scope {
                family,
                names,
                counters: names.iter().map(|_| Counter::new()).collect(),
                gauges: names.iter().map(|_| Gauge::new()).collect(),
            })
        });
        scope.clone()
    }

    /// Counts a refusal or failure.
    pub fn refuse(&self, reason: Reason) {
        let place = Reason::ALL.iter().position(|known| *known == reason);
        if let Some(counter) = place.and_then(|place| self.refusals.get(place)) {
            counter.increment();
        }
    }

    /// Seconds since the start.
    pub fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// All counters but those of clusters.
    pub fn sample(&self, samples: &mut Samples) {
        let server = Family::new("", "envoy_");
        samples.gauge(&server, "server.live", 1);
        samples.counter(&server, "server.uptime", self.uptime());
        samples.group(&server, &self.server);
        for (reason, counter) in Reason::ALL.iter().zip(&self.refusals) {
            let row = reason.row();
            let family = Family::new("osm_proxy.", "osm_proxy_")
                .label("blame", row.blame.as_str())
                .label("reason", row.details);
            samples.labelled(&family, "refusals", row.details, counter);
        }
        each(&self.listeners, |name, stats| {
            samples.group(&Family::listener(name), &**stats);
        });
        each(&self.http, |name, stats| {
            samples.group(&Family::http(name), &**stats)
        });
        each(&self.tcp, |name, stats| {
            samples.group(&Family::tcp(name), &**stats)
        });
        for scope in self.scopes.lock().values() {
            scope.sample(samples);
        }
    }

    /// Sets all counters and histograms to zero; gauges stay.
    pub fn reset(&self) {
        self.server.reset();
        self.refusals.iter().for_each(Counter::reset);
        each(&self.listeners, |_, stats| stats.reset());
        each(&self.http, |_, stats| stats.reset());
        each(&self.tcp, |_, stats| stats.reset());
        for scope in self.scopes.lock().values() {
            scope.counters.iter().for_each(Counter::reset);
        }
    }
}

/// A group under a name, made at its first sight.
fn shared<T: Default>(map: &Mutex<BTreeMap<Arc<str>, Arc<T>>>, name: &Arc<str>) -> Arc<T> {
    let mut map = map.lock();
    if map.len() >= MANY {
        map.retain(|_, group| Arc::strong_count(group) > 1);
    }
    map.entry(name.clone()).or_default().clone()
}

fn each<T>(map: &Mutex<BTreeMap<Arc<str>, Arc<T>>>, mut visit: impl FnMut(&str, &Arc<T>)) {
    for (name, group) in map.lock().iter() {
        visit(name, group);
    }
}

#[cfg(test)]
mod tests;
