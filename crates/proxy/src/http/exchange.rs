//! One request and its reply as counters and the access log see it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;

use super::body::Progress;
use super::server::HttpConnection;
use crate::access::{Line, milliseconds, timestamp};
use crate::cluster::Chosen;
use crate::reason::Reason;

/// The bookkeeping of one request; the log line is written when it is dropped.
#[derive(Debug)]
pub struct Exchange {
    http: Arc<HttpConnection>,
    started: Instant,
    progress: Arc<Progress>,
    complete: bool,
    failed: Option<Reason>,
    upstream: Option<Arc<Chosen>>,
    sent: u64,
    /// The log line so far.
    pub line: Box<Line>,
}

impl Exchange {
    /// A request begins.
    pub fn new(http: &Arc<HttpConnection>) -> Exchange {
        http.begin();
        let stats = http.connection.http_stats();
        stats.requests.increment();
        stats.requests_active.add(1);
        let mut line = Box::new(http.connection.line());
        if http.connection.worker.shared.log.is_on() {
            line.start_time = timestamp(SystemTime::now());
        }
        Exchange {
            http: http.clone(),
            started: Instant::now(),
            progress: Arc::default(),
            complete: false,
            failed: None,
            upstream: None,
            sent: 0,
            line,
        }
    }

    /// The bookkeeping of the bytes after a switch of protocols.
    pub fn carried(http: &Arc<HttpConnection>, head: &Exchange) -> Exchange {
        let mut carried = Exchange::new(http);
        carried.line.method = head.line.method.clone();
        carried.line.path = head.line.path.clone();
        carried.line.authority = head.line.authority.clone();
        carried.line.request_id = head.line.request_id.clone();
        carried.line.route_name = head.line.route_name.clone();
        carried.line.upstream_cluster = head.line.upstream_cluster.clone();
        carried.line.upstream_host = head.line.upstream_host.clone();
        carried.line.response_code = head.line.response_code;
        carried.line.response_code_details = "upgraded".to_owned();
        carried
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether anybody will read the log line.
    pub fn is_logged(&self) -> bool {
        self.http.connection.worker.shared.log.is_on()
    }

    /// How far the request's body has come.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// It goes to this cluster.
    pub fn upstream(&mut self, chosen: Arc<Chosen>) {
        chosen.cluster.stats.requests.increment();
        chosen.cluster.stats.requests_active.add(1);
        self.upstream = Some(chosen);
    }

    /// The reply's status is known.
    pub fn replied(&mut self, status: StatusCode) {
        self.line.response_code = status.as_u16();
        self.http.connection.http_stats().completed.increment();
        self.http.connection.http_stats().classes.count(status);
        if let Some(chosen) = &self.upstream {
            chosen.cluster.stats.classes.count(status);
            chosen.cluster.stats.completed.increment();
            chosen.cluster.stats.time.record(self.started.elapsed());
        }
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
        self.line.response_flags = row.flag;
        self.line.blame = Some(row.blame.as_str());
        if self.line.response_code_details.is_empty()
            || self.line.response_code_details == "via_upstream"
        {
            self.line.response_code_details = row.details.to_owned();
        }
        if reason == Reason::Timeout
            && let Some(chosen) = &self.upstream
        {
            chosen.cluster.stats.timeouts.increment();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.http.end();
        self.http
            .connection
            .http_stats()
            .time
            .record(self.started.elapsed());
        self.http.connection.http_stats().requests_active.add(-1);
        if let Some(chosen) = &self.upstream {
            chosen.cluster.stats.requests_active.add(-1);
        }
        if !self.complete && self.failed.is_none() {
            self.fail(Reason::ClientGone);
        }
        let log = &self.http.connection.worker.shared.log;
        if log.is_on() {
            let mut line = std::mem::take(&mut *self.line);
            line.bytes_received = self.progress.bytes();
            line.bytes_sent = self.sent;
            line.duration = milliseconds(self.started.elapsed());
            log.emit(line);
        }
    }
}
