//! The access log: one JSON line per request or connection, written by a thread of its own.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::stats::Stats;

/// Lines that wait for the writer. Two seconds' worth at a thousand requests a second.
const QUEUE: usize = 2048;
/// A field taken from a request is cut to this, so that no client fills the log.
const FIELD: usize = 1024;

/// Where lines go.
#[derive(Debug, Clone)]
pub struct AccessLog {
    sender: Option<SyncSender<Line>>,
    stats: Arc<Stats>,
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
}

// === impl AccessLog ===

impl AccessLog {
    /// A log on standard output.
    pub fn stdout(stats: Arc<Stats>) -> std::io::Result<AccessLog> {
        let (sender, receiver) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(&receiver))?;
        Ok(AccessLog {
            sender: Some(sender),
            stats,
        })
    }

    /// A log that goes nowhere.
    pub fn off(stats: Arc<Stats>) -> AccessLog {
        AccessLog {
            sender: None,
            stats,
        }
    }

    /// Whether lines are wanted.
    pub fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// Hands a line to the writer; a line that finds the queue full is counted and dropped.
    pub fn emit(&self, line: Line) {
        if let Some(sender) = &self.sender
            && sender.try_send(line).is_err()
        {
            self.stats.server.log_dropped.increment();
        }
    }
}

/// Writes until the last sender is gone; one system call takes all that waits.
fn write(receiver: &Receiver<Line>) {
    let mut buffer = Vec::new();
    while let Ok(first) = receiver.recv() {
        buffer.clear();
        for line in std::iter::once(first).chain(receiver.try_iter().take(64)) {
            if serde_json::to_writer(&mut buffer, &line).is_ok() {
                buffer.push(b'\n');
            }
        }
        let _ = std::io::stdout().lock().write_all(&buffer);
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
