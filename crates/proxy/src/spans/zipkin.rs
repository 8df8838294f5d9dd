//! Spans as Zipkin's API version 2 takes them: <https://zipkin.io/zipkin-api/>.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::span::{Span, SpanKind};

/// Who reports a span.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    service_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<String>,
    port: u16,
}

#[derive(Serialize)]
struct Annotation {
    timestamp: u64,
    value: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    id: String,
    kind: &'static str,
    name: &'a str,
    timestamp: u64,
    duration: u64,
    local_endpoint: &'a Endpoint,
    annotations: Vec<Annotation>,
    tags: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "is_not")]
    shared: bool,
}

impl Endpoint {
    /// A service at an address.
    pub fn new(service: &str, address: Option<IpAddr>) -> Endpoint {
        let (ipv4, ipv6) = match address {
            Some(IpAddr::V4(v4)) => (Some(v4.to_string()), None),
            Some(IpAddr::V6(v6)) => (None, Some(v6.to_string())),
            None => (None, None),
        };
        Endpoint {
            service_name: service.to_owned(),
            ipv4,
            ipv6,
            port: 0,
        }
    }
}

/// A report: a JSON array.
pub fn json(spans: &[Span], endpoint: &Endpoint) -> Vec<u8> {
    let records: Vec<Record<'_>> = spans.iter().map(|span| record(span, endpoint)).collect();
    // Maps have text keys and nothing else can fail.
    serde_json::to_vec(&records).unwrap_or_default()
}

fn record<'a>(span: &'a Span, endpoint: &'a Endpoint) -> Record<'a> {
    let (begin, end) = span.bounds();
    let begin = micros(begin);
    // Zipkin drops what lasts no time at all.
    let duration = micros(end).saturating_sub(begin).max(1);
    let at = |after: Duration| micros(span.bounds().0.saturating_add(after.as_nanos()));
    let last = match span.kind {
        SpanKind::Server => "ss",
        SpanKind::Client => "cr",
    };
    let annotations = span.annotations.iter().copied();
    Record {
        trace_id: span.context.trace_id(),
        parent_id: span.context.parent.map(|id| format!("{id:016x}")),
        id: format!("{:016x}", span.context.span),
        kind: match span.kind {
            SpanKind::Server => "SERVER",
            SpanKind::Client => "CLIENT",
        },
        name: &span.name,
        timestamp: begin,
        duration,
        local_endpoint: endpoint,
        annotations: annotations
            .chain([(span.took, last)])
            .map(|(after, value)| Annotation {
                timestamp: at(after),
                value,
            })
            .collect(),
        tags: span
            .tags
            .iter()
            .map(|(name, value)| (&**name, value.as_str()))
            .collect(),
        shared: span.shared,
    }
}

fn micros(nanos: u128) -> u64 {
    u64::try_from(nanos / 1000).unwrap_or(u64::MAX)
}

fn is_not(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::spans::context::TraceContext;

    #[test]
    fn a_span_is_zipkins_json() {
        let context = TraceContext {
            trace: 0x1d9e_642b_1adf_94c9,
            span: 2,
            parent: Some(3),
            sampled: true,
        };
        let mut span = Span::new("web \"1\"".into(), SpanKind::Server, context);
        span.started = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_207_824_510_154);
        span.took = Duration::from_micros(5203);
        span.shared = true;
        span.tag("http.status_code", "200");
        span.annotate(Duration::from_micros(4), "first_upstream_tx_byte_sent");
        let own = Endpoint::new("bookstore.ns", Some([10, 0, 0, 7].into()));
        let mut other = Span::new(
            "x".into(),
            SpanKind::Client,
            TraceContext {
                parent: None,
                trace: u128::MAX,
                ..context
            },
        );
        other.started = span.started;
        let text = json(&[span, other], &own);
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let endpoint =
            serde_json::json!({"serviceName": "bookstore.ns", "ipv4": "10.0.0.7", "port": 0});
        let expected = serde_json::json!([
            {
                "traceId": "1d9e642b1adf94c9", "parentId": "0000000000000003", "id": "0000000000000002",
                "kind": "SERVER", "name": "web \"1\"", "timestamp": 1_795_207_824_510_154_u64, "duration": 5203,
                "localEndpoint": endpoint, "shared": true, "tags": {"http.status_code": "200"},
                "annotations": [
                    {"timestamp": 1_795_207_824_510_158_u64, "value": "first_upstream_tx_byte_sent"},
                    {"timestamp": 1_795_207_824_515_357_u64, "value": "ss"},
                ],
            },
            {
                "traceId": "f".repeat(32), "id": "0000000000000002", "kind": "CLIENT", "name": "x",
                "timestamp": 1_795_207_824_510_154_u64, "duration": 1, "localEndpoint": endpoint, "tags": {},
                "annotations": [{"timestamp": 1_795_207_824_510_154_u64, "value": "cr"}],
            },
        ]);
        assert_eq!(found, expected);
    }
}
