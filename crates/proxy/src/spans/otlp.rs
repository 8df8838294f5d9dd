//! Spans as OpenTelemetry's protocol carries them: the parts of `opentelemetry/proto/trace/v1/trace.proto` and
//! `collector/trace/v1/trace_service.proto` that a proxy fills in.

use envoy_types::pb::opentelemetry::proto::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value,
};
use prost::Message;

use super::span::{Span as Own, SpanKind};

/// The method that takes spans over gRPC.
pub const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;
/// `flags`: whether the parent is remote is known …
const KNOWS_REMOTE: u32 = 0x100;
/// … and it is.
const IS_REMOTE: u32 = 0x200;

/// A report.
#[derive(Clone, PartialEq, Message)]
pub struct ExportRequest {
    /// Whose spans, and the spans.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// A collector's answer; what it says beside having come is for people.
#[derive(Clone, PartialEq, Message)]
pub struct ExportResponse {
    /// Some were not taken.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// What was not taken.
#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    /// So many.
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    /// For this reason.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// Spans of a process.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceSpans {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A process.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// What it is.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Spans of one library.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeSpans {
    /// The library.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// A span.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// `tracestate`.
    #[prost(string, tag = "3")]
    pub trace_state: String,
    /// 8 bytes, or none.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// What was done.
    #[prost(string, tag = "5")]
    pub name: String,
    /// 2 server, 3 client.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// Tags.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// What happened when.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
    /// Whether it failed.
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    /// W3C's flags, and whether the parent is remote.
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// Something that happened.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Nanoseconds since 1970.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// What.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// Whether a span failed.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// 2 is an error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// The process and the library, as configuration has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Of the process.
    pub attributes: Vec<(String, String)>,
    /// The library is named.
    pub names_scope: bool,
}

/// A report.
pub fn request(spans: &[Own], origin: &Origin) -> ExportRequest {
    let attributes = origin.attributes.iter();
    ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: attributes.map(|(name, value)| pair(name, value)).collect(),
            }),
            scope_spans: vec![ScopeSpans {
                scope: origin.names_scope.then(|| InstrumentationScope {
                    name: env!("CARGO_PKG_NAME").to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans: spans.iter().map(span).collect(),
            }],
        }],
    }
}

fn span(own: &Own) -> Span {
    let context = &own.context;
    let (begin, end) = own.bounds();
    let time = |nanos: u128| u64::try_from(nanos).unwrap_or(u64::MAX);
    let remote = if own.is_below_remote { IS_REMOTE } else { 0 };
    Span {
        trace_id: context.trace.to_be_bytes().to_vec(),
        span_id: context.span.to_be_bytes().to_vec(),
        trace_state: own.state.clone().unwrap_or_default(),
        parent_span_id: context
            .parent
            .map(|id| id.to_be_bytes().to_vec())
            .unwrap_or_default(),
        name: own.name.clone(),
        kind: match own.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
        start_time_unix_nano: time(begin),
        end_time_unix_nano: time(end),
        attributes: own
            .tags
            .iter()
            .map(|(name, value)| pair(name, value))
            .collect(),
        events: own
            .annotations
            .iter()
            .map(|(after, name)| Event {
                time_unix_nano: time(begin.saturating_add(after.as_nanos())),
                name: (*name).to_owned(),
            })
            .collect(),
        status: own.is_error.then_some(Status { code: ERROR }),
        flags: u32::from(context.sampled) | KNOWS_REMOTE | remote,
    }
}

fn pair(name: &str, value: &str) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::spans::context::TraceContext;

    #[test]
    fn a_span_is_otlps_message() {
        let context = TraceContext {
            trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span: 0x1fe7_d7ba_4f64_bf04,
            parent: Some(0xb7ad_6b71_6920_3331),
            sampled: true,
        };
        let mut own = Own::new("ingress".into(), SpanKind::Server, context);
        own.started = SystemTime::UNIX_EPOCH + Duration::from_nanos(7);
        own.took = Duration::from_nanos(5);
        own.is_below_remote = true;
        own.is_error = true;
        own.state = Some("a=b".into());
        own.tag("http.status_code", "500");
        own.annotate(Duration::from_nanos(2), "first_upstream_tx_byte_sent");
        let origin = Origin {
            attributes: vec![("service.name".into(), "svc".into())],
            names_scope: true,
        };
        let request = request(&[own], &origin);
        let bytes = request.encode_to_vec();
        assert_eq!(ExportRequest::decode(bytes.as_slice()).unwrap(), request);
        let [spans] = request.resource_spans.as_slice() else {
            panic!("{request:?}");
        };
        let resource = spans.resource.clone().unwrap();
        assert_eq!(resource.attributes, vec![pair("service.name", "svc")]);
        let span = &spans.scope_spans[0].spans[0];
        assert_eq!(span.trace_id[..2], [0x0a, 0xf7]);
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert_eq!(span.parent_span_id[0], 0xb7);
        assert_eq!(
            (span.start_time_unix_nano, span.end_time_unix_nano),
            (7, 12)
        );
        assert_eq!(span.events[0].time_unix_nano, 9);
        assert_eq!((span.kind, span.flags), (2, 0x301));
        assert_eq!(span.status, Some(Status { code: 2 }));
        assert_eq!(span.trace_state, "a=b");
    }
}
