//! The access log: one line per request or connection, written by a thread of its own.
//!
//! Listeners, connection managers and TCP proxies say what is logged ([`Logger`]); where they say nothing, a sidecar
//! without bootstrap file writes one JSON line on standard output.

mod logger;
mod sink;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use logger::{Comparison, Condition, Logger};
pub use sink::{Sink, Writer, allow};

use crate::stats::Stats;

/// A field taken from a request is cut to this, so that no client fills the log.
const FIELD: usize = 1024;

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    /// Whether there is a line where nothing is configured.
    is_default: bool,
    writer: Writer,
}

/// A request's head, kept for formats that ask for its headers.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path_and_query: String,
    /// The authority.
    pub authority: String,
    /// The scheme.
    pub scheme: String,
    /// The other headers.
    pub headers: HeaderMap,
}

/// What a line says; the names are those of OSM's own format.
#[derive(Debug, Default, Serialize)]
pub struct Line {
    /// When it began.
    pub start_time: String,
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// The request's method.
    pub method: Option<String>,
    /// The request's path.
    pub path: Option<String>,
    /// `HTTP/1.1`, `HTTP/2`; absent for opaque connections.
    pub protocol: Option<&'static str>,
    /// Status; 0 if none was sent.
    pub response_code: u16,
    /// Why.
    pub response_code_details: String,
    /// Envoy's flags.
    pub response_flags: &'static str,
    /// Who has to act on a failure.
    pub blame: Option<&'static str>,
    /// Of the body, or of the connection.
    pub bytes_received: u64,
    /// Of the body, or of the connection.
    pub bytes_sent: u64,
    /// Milliseconds.
    pub duration: u64,
    /// Milliseconds.
    pub upstream_service_time: Option<u64>,
    /// As the client sent it.
    pub x_forwarded_for: Option<String>,
    /// As the client sent it.
    pub user_agent: Option<String>,
    /// Of the request.
    pub request_id: Option<String>,
    /// Of the request.
    pub authority: Option<String>,
    /// Where it went.
    pub upstream_host: Option<String>,
    /// Where it went.
    #[serde(serialize_with = "text")]
    pub upstream_cluster: Option<Arc<str>>,
    /// Which route or chain decided.
    #[serde(serialize_with = "text")]
    pub route_name: Option<Arc<str>>,
    /// Which policy decided.
    #[serde(serialize_with = "text")]
    pub policy: Option<Arc<str>>,
    /// The server name of the TLS handshake.
    pub requested_server_name: Option<String>,
    /// Where it comes from.
    pub downstream_remote_address: String,
    /// Where it was going.
    pub downstream_local_address: String,
    /// Who it comes from, verified.
    pub downstream_peer: Option<String>,
    /// Name of the filter chain.
    #[serde(skip)]
    pub filter_chain: Option<Arc<str>>,
    /// The request's head, if a format asks for it.
    #[serde(skip)]
    pub request_head: Option<Box<RequestHead>>,
    /// The response's headers, if a format asks for them.
    #[serde(skip)]
    pub response_headers: Option<Box<HeaderMap>>,
    /// When it began.
    #[serde(skip)]
    pub begun: Option<Instant>,
    /// When the answer began.
    #[serde(skip)]
    pub answered: Option<Instant>,
    /// Id of its trace.
    #[serde(skip)]
    pub trace_id: Option<String>,
    /// The health check filter has answered it.
    #[serde(skip)]
    pub is_health_check: bool,
}

// === impl AccessLog ===

impl AccessLog {
    /// A log on standard output where nothing is configured.
    pub fn stdout(stats: Arc<Stats>) -> AccessLog {
        AccessLog {
            is_default: true,
            writer: Writer::new(stats),
        }
    }

    /// A log only where one is configured.
    pub fn off(stats: Arc<Stats>) -> AccessLog {
        AccessLog {
            is_default: false,
            writer: Writer::new(stats),
        }
    }

    /// Whether anybody reads the line of an exchange with these logs.
    pub fn is_on(&self, loggers: &[Logger]) -> bool {
        self.is_default || !loggers.is_empty()
    }

    /// Writes the line of an exchange that is over.
    pub fn emit(&self, line: &Line, loggers: &[Logger]) {
        for (sink, text) in loggers.iter().filter_map(|logger| logger.write(line)) {
            self.writer.send(sink, text);
        }
        if self.is_default
            && loggers.is_empty()
            && let Ok(mut text) = serde_json::to_string(line)
        {
            text.push('\n');
            self.writer.send(Sink::Stdout, text);
        }
    }
}

fn text<S: serde::Serializer>(value: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(serializer)
}

/// A request's field for the log.
pub fn field(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match text.char_indices().nth(FIELD) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned(),
        None => text.into_owned(),
    }
}

/// A time of the log.
pub fn timestamp(at: SystemTime) -> String {
    OffsetDateTime::from(at)
        .format(&Rfc3339)
        .unwrap_or_default()
}

/// Milliseconds, as Envoy logs durations.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
