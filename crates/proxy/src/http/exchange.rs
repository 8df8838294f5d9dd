//! One request and its reply as counters and the access log see it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;

use super::filters::Hold;
use super::server::HttpConnection;
use crate::access::{Line, milliseconds, timestamp};
use crate::cluster::Cluster;
use crate::reason::Reason;
use crate::spans::Trace;

/// The bookkeeping of one request; the log line is written when it is dropped.
#[derive(Debug)]
pub struct Exchange {
    http: Arc<HttpConnection>,
    started: Instant,
    complete: bool,
    failed: Option<Reason>,
    upstream: Option<Arc<Cluster>>,
    received: u64,
    sent: u64,
    /// The log line so far.
    pub line: Box<Line>,
    /// What filters hold until it is over.
    pub holds: Vec<Hold>,
    /// Its spans.
    pub trace: Option<Box<Trace>>,
}

impl Exchange {
    /// A request begins.
    pub fn new(http: &Arc<HttpConnection>) -> Exchange {
        http.begin();
        let stats = http.connection.http_stats();
        stats.requests.increment();
        if http.is_http2 {
            stats.http2_requests.increment();
        } else {
            stats.http1_requests.increment();
        }
        stats.requests_active.add(1);
        let mut line = Box::<Line>::default();
        if http.connection.is_logged() {
            *line = http.connection.line();
            line.begun = Some(Instant::now());
            line.start_time = timestamp(SystemTime::now());
        }
        Exchange {
            http: http.clone(),
            started: Instant::now(),
            complete: false,
            failed: None,
            upstream: None,
            received: 0,
            sent: 0,
            line,
            holds: Vec::new(),
            trace: None,
        }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether anybody will read the log line.
    pub fn is_logged(&self) -> bool {
        self.http.connection.is_logged()
    }

    /// Whether a configured log may ask for headers.
    pub fn wants_headers(&self) -> bool {
        !self.http.connection.loggers().is_empty()
    }

    /// It goes to this cluster.
    pub fn upstream(&mut self, cluster: Arc<Cluster>) {
        self.leave();
        cluster.stats.requests.increment();
        cluster.stats.requests_active.add(1);
        self.upstream = Some(cluster);
    }

    fn leave(&mut self) {
        if let Some(cluster) = self.upstream.take() {
            cluster.stats.requests_active.add(-1);
        }
    }

    /// The reply's status is known.
    pub fn replied(&mut self, status: StatusCode) {
        self.line.response_code = status.as_u16();
        if self.is_logged() && self.line.answered.is_none() {
            self.line.answered = Some(Instant::now());
        }
        let stats = self.http.connection.http_stats();
        stats.completed.increment();
        stats.classes.count(status);
        if let Some(cluster) = &self.upstream {
            cluster.stats.classes.count(status);
            cluster.stats.completed.increment();
            cluster.stats.time.record(self.started.elapsed());
        }
    }

    /// Why it failed or was refused, if it was.
    pub fn failed(&self) -> Option<Reason> {
        self.failed
    }

    /// So many bytes of the request's body have come in all.
    pub fn received(&mut self, bytes: u64) {
        self.received = bytes;
    }

    /// Bytes of the reply's body have passed.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(u64::try_from(bytes).unwrap_or(0));
    }

    /// The reply has passed whole.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// It failed for this reason, or was refused.
    pub fn fail(&mut self, reason: Reason) {
        let row = reason.row();
        self.http.connection.worker.shared.stats.refuse(reason);
        self.failed = Some(reason);
        self.count(reason);
        self.line.response_flags = row.flag;
        self.line.blame = Some(row.blame.as_str());
        if self.line.response_code_details == "via_upstream" {
            // Envoy's words for what breaks off a response that has begun.
            self.line.response_code_details = row.details.replace("before", "after");
        } else if self.line.response_code_details.is_empty() {
            self.line.response_code_details = row.details.to_owned();
        }
        if reason == Reason::Timeout
            && let Some(cluster) = &self.upstream
        {
            cluster.stats.timeouts.increment();
        }
    }
}

impl Exchange {
    /// Counts what has a counter of its own.
    fn count(&self, reason: Reason) {
        let stats = self.http.connection.http_stats();
        match reason {
            Reason::RouteNotFound => stats.no_route.increment(),
            Reason::ClusterNotFound => stats.no_cluster.increment(),
            Reason::HeadersTimeout => stats.head_timeouts.increment(),
            Reason::IdleTimeout => stats.idle_timeouts.increment(),
            Reason::HeadersTooLarge => stats.too_large.increment(),
            Reason::UpgradeForbidden => stats.upgrades_refused.increment(),
            Reason::ClientGone => stats.resets_received.increment(),
            _ => {}
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.http.finish();
        let stats = self.http.connection.http_stats();
        stats.time.record(self.started.elapsed());
        stats.requests_active.add(-1);
        if !self.complete && self.failed.is_none() {
            self.fail(Reason::ClientGone);
        }
        self.leave();
        let stats = self.http.connection.http_stats();
        // Of bodies: what frames them is not counted.
        stats.received.add(self.received);
        stats.sent.add(self.sent);
        if let Some(trace) = self.trace.take() {
            trace.finish(&self.line, self.received, self.sent);
        }
        if self.is_logged() {
            let line = &mut self.line;
            line.bytes_received = self.received;
            line.bytes_sent = self.sent;
            line.duration = milliseconds(self.started.elapsed());
            self.http.connection.log(line);
        }
    }
}
