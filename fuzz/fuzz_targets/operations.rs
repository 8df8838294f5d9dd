//! What comes before and beside requests: PROXY headers, trace contexts, the bootstrap file.

use http::{HeaderMap, HeaderValue};
use proxy::bootstrap::Bootstrap;
use proxy::proxy_protocol::{Accepts, Found, parse};
use proxy::spans::context::{B3Form, Carriers, Received, TraceContext};

use crate::Target;

/// A PROXY header, whole and in two halves. The first byte says what is taken.
pub const PROXY_PROTOCOL: Target = Target {
    name: "proxy-protocol",
    run: |data| {
        let Some((first, bytes)) = data.split_first() else {
            return;
        };
        let accepts = Accepts {
            v1: first & 1 != 0,
            v2: first & 2 != 0,
            nothing: first & 4 != 0,
        };
        let whole = parse(bytes, accepts);
        if let Found::Header(header) = &whole {
            assert!((1..=bytes.len()).contains(&header.length));
            assert!(accepts.v1 || accepts.v2);
            // What follows a header does not change it, and all of it is needed.
            assert_eq!(parse(&bytes[..header.length], accepts), whole);
            assert_eq!(parse(&bytes[..header.length - 1], accepts), Found::More);
            if let Some((source, destination)) = header.addresses {
                assert_eq!(source.is_ipv4(), destination.is_ipv4());
            }
        }
        match parse(&bytes[..bytes.len() / 2], accepts) {
            Found::More => {}
            known => assert_eq!(known, whole),
        }
    },
    seeds: || {
        let v2 = b"\r\n\r\n\0\r\nQUIT\n";
        vec![
            b"\x01PROXY TCP4 10.0.0.1 10.0.0.2 4711 80\r\nGET".to_vec(),
            b"\x03PROXY TCP6 fd00::1 fd00::2 4711 80\r\n".to_vec(),
            b"\x07PROXY UNKNOWN whatever\r\n".to_vec(),
            [
                b"\x02",
                &v2[..],
                b"\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x12\x34\0\x50",
            ]
            .concat(),
            [b"\x02", &v2[..], b"\x20\0\0\0"].concat(),
            [
                b"\x02",
                &v2[..],
                b"\x21\x11\0\x13\x0a\0\0\x01\x0a\0\0\x02\x12\x34\0\x50\x03\0\x04\0\0\0\0",
            ]
            .concat(),
        ]
    },
};

/// Headers of trace contexts, a line each: what is read is written so that it is read alike.
pub const TRACE_CONTEXT: Target = Target {
    name: "trace-context",
    run: |data| {
        let names = [
            "b3",
            "traceparent",
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-parentspanid",
            "x-b3-sampled",
        ];
        let mut headers = HeaderMap::new();
        for (name, line) in names.into_iter().zip(data.split(|byte| *byte == b'\n')) {
            if let (false, Ok(value)) = (line.is_empty(), HeaderValue::from_bytes(line)) {
                headers.insert(name, value);
            }
        }
        for received in [
            Received::b3(&headers),
            Received::w3c(&headers),
            Received::b3_or_w3c(&headers),
        ] {
            let Received::Span {
                trace,
                span,
                parent,
                sampled,
            } = received
            else {
                continue;
            };
            let context = TraceContext {
                trace,
                span,
                parent,
                sampled: sampled.unwrap_or(false),
            };
            for form in [B3Form::Single, B3Form::Multiple] {
                let mut written = HeaderMap::new();
                let carriers = Carriers {
                    b3: Some(form),
                    w3c: true,
                };
                context.write(&mut written, carriers);
                let expected = Received::Span {
                    trace,
                    span,
                    parent,
                    sampled: Some(context.sampled),
                };
                assert_eq!(Received::b3(&written), expected, "{form:?} {written:?}");
            }
        }
    },
    seeds: || {
        [
            "48485a3953bb6124-a2fb4a1d1a96d312-1-0020000000000001\n00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01",
            "0\n\n463ac35c9f6413ad48485a3953bb6124\na2fb4a1d1a96d312\n1\n1",
            "\n\n463ac35c9f6413ad48485a3953bb6124\na2fb4a1d1a96d312\n0020000000000001\ntrue",
        ]
        .map(Into::into)
        .to_vec()
    },
};

/// A bootstrap file, as long as it names no other file.
pub const BOOTSTRAP: Target = Target {
    name: "bootstrap",
    run: |data| {
        let Ok(text) = std::str::from_utf8(data) else {
            return;
        };
        let lower = text.to_ascii_lowercase();
        // A name may be written with escapes, too.
        if ["file", "path", "environment", "\\"]
            .iter()
            .any(|word| lower.contains(word))
        {
            return;
        }
        let _ = Bootstrap::read(text);
    },
    seeds: || {
        let ads = r#"
node: {id: a, cluster: b, locality: {zone: c}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: ads}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters:
  - {name: ads, type: STATIC, load_assignment: {cluster_name: ads, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}}
"#;
        let operations = r#"
tracing: {http: {name: z, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: c, collector_endpoint: /s, collector_endpoint_version: HTTP_JSON}}}
overload_manager:
  resource_monitors:
  - {name: heap, typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1000}}
  actions:
  - {name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: heap, threshold: {value: 0.95}}]}
"#;
        vec![ads.into(), operations.into(), b"{}".to_vec()]
    },
};
