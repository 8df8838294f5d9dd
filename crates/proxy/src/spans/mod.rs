//! Tracing: a span for each request and, where wanted, for each attempt at it; contexts between the hops.
//!
//! What a connection manager's `tracing` says is [`Tracing`]; [`Trace`] is one request's. Contexts, sampling and the
//! collectors' formats are pure; only [`export`] sends.

pub mod context;
pub mod export;
pub mod otlp;
pub mod sampling;
pub mod span;
mod trace;
pub mod zipkin;

use std::sync::{Arc, OnceLock};

use http::header::HeaderName;

pub use trace::{Towards, Trace};

use self::export::{Collector, Exporter, Exporters};
use self::sampling::{Cause, Shares};
use crate::format::Template;
use crate::fraction::Fraction;
use crate::stats::{Family, Scope};
use crate::worker::Worker;

/// Counters of a connection manager, by place: [`Tracing::count`].
const NAMES: &[&str] = &[
    "random_sampling",
    "service_forced",
    "client_enabled",
    "not_traceable",
    "health_check",
];

/// What a connection manager does about traces.
#[derive(Debug)]
pub struct Tracing {
    /// Who is told of spans; the proxy's own tracer if absent.
    pub tracer: Option<Arc<Tracer>>,
    /// Which requests.
    pub shares: Shares,
    /// Spans say what happened when.
    pub verbose: bool,
    /// Letters of a path in a tag.
    pub max_path: usize,
    /// Tags of its own.
    pub tags: Vec<CustomTag>,
    /// Attempts have spans of their own.
    pub upstream_spans: bool,
    /// The span's name, whatever else would name it.
    pub operation: Option<Template>,
    /// The name of an attempt's span.
    pub upstream_operation: Option<Template>,
    /// Its name in statistics.
    pub stat_prefix: Arc<str>,
    /// Looked up by the first request.
    pub ways: OnceLock<Option<Ways>>,
}

/// A tracer: which contexts it speaks, and its collector.
#[derive(Debug)]
pub struct Tracer {
    /// Which contexts.
    pub dialect: Dialect,
    /// Where spans go.
    pub collector: Arc<Collector>,
}

/// Which contexts a tracer reads and writes, and how it makes ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// B3.
    Zipkin {
        /// Traces have ids of 128 bits.
        long_ids: bool,
        /// A server's span is the client's span, too.
        shared: bool,
        /// W3C beside B3.
        w3c: bool,
        /// Ids begin with the time.
        timed_ids: bool,
        /// The proxy is a hop of its own: its own spans are always a server's, those of its attempts a client's.
        split: bool,
    },
    /// W3C.
    OpenTelemetry,
}

/// A tag that configuration adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomTag {
    /// Its name.
    pub name: String,
    /// Its value; none: no tag.
    pub value: TagValue,
}

/// Where a tag's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagValue {
    /// This.
    Literal(String),
    /// A request's header, or else this.
    Header(HeaderName, String),
    /// A format string.
    Format(Template),
}

/// What a route says about traces.
#[derive(Debug, Default)]
pub struct RouteTracing {
    /// Other shares.
    pub shares: Option<RouteShares>,
    /// More tags, or other values of the same.
    pub tags: Vec<CustomTag>,
    /// The span's name, and whether the proxy at the other end is told of it.
    pub decorator: Option<(String, bool)>,
    /// The span's name, whatever else would name it.
    pub operation: Option<Template>,
    /// The name of an attempt's span.
    pub upstream_operation: Option<Template>,
}

/// The shares of a route; what it leaves open is all.
#[derive(Debug, Clone, Copy)]
pub struct RouteShares(pub Shares);

/// What a connection manager's tracing needs at run time.
#[derive(Debug)]
pub struct Ways {
    /// Which contexts.
    pub dialect: Dialect,
    /// Where spans go.
    pub exporter: Arc<Exporter>,
    stats: Arc<Scope>,
}

/// The tracers in use, and what spans say of the proxy.
#[derive(Debug, Default)]
pub struct Tracers {
    /// Collectors.
    pub exporters: Exporters,
    own: OnceLock<Own>,
}

/// The proxy, as its spans tell of it.
#[derive(Debug, Default)]
pub struct Own {
    /// Its node's id.
    pub node: String,
    /// Its node's zone.
    pub zone: String,
    /// The tracer of connection managers that name none.
    pub tracer: Option<Arc<Tracer>>,
}

// === impl Tracers ===

impl Tracers {
    /// Says who the proxy is, once.
    pub fn name(&self, own: Own) {
        let _ = self.own.set(own);
    }

    /// Who the proxy is.
    pub fn own(&self) -> &Own {
        static NOBODY: Own = Own {
            node: String::new(),
            zone: String::new(),
            tracer: None,
        };
        self.own.get().unwrap_or(&NOBODY)
    }
}

// === impl Tracing ===

impl Tracing {
    /// The way to the collector; none where there is no tracer.
    pub fn ways(&self, worker: &Worker) -> Option<&Ways> {
        let look = || {
            let tracers = &worker.shared.tracers;
            let tracer = self.tracer.as_ref().or(tracers.own().tracer.as_ref())?;
            let family = Family::http_filter(&self.stat_prefix, "tracing");
            Some(Ways {
                dialect: tracer.dialect,
                exporter: tracers.exporters.of(&tracer.collector, worker),
                stats: worker.shared.stats.scope(family, NAMES),
            })
        };
        self.ways.get_or_init(look).as_ref()
    }
}

impl Ways {
    /// Counts a decision.
    pub fn count(&self, cause: Cause) {
        let place = match cause {
            Cause::Sampled => 0,
            Cause::Service => 1,
            Cause::Client => 2,
            Cause::Untraced => 3,
        };
        self.stats.counter(place).increment();
    }
}

impl Default for Shares {
    fn default() -> Shares {
        Shares {
            client: Fraction::ALL,
            random: Fraction::ALL,
            overall: Fraction::ALL,
        }
    }
}
