//! Requests leave spans with a collector and contexts in headers, before a collector that keeps what it gets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::config::trace::v3 as trace;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::tracing::v3 as tags;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use prost::Message;
use proxy::spans::otlp::ExportRequest;
use serde_json::Value as Json;
use support::peers::{application, get};
use support::{
    Http, Proxy, any, eventually, http_filter, listener, network_filter, routes, static_cluster,
};
use tokio::net::TcpListener;
use xds::client::Kind;

const ID: &str = "x-request-id: 11111111-1111-4111-8111-111111111111\r\n";

/// What a collector got: path, headers, body.
type Reports = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

async fn collector() -> (SocketAddr, Reports) {
    let reports = Reports::default();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let kept = reports.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            let kept = kept.clone();
            let service = service_fn(move |request| take(request, kept.clone()));
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, reports)
}

/// Keeps a report, and answers as gRPC and Zipkin want it: an empty message with trailers.
async fn take(
    request: Request<Incoming>,
    reports: Reports,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = parts.uri.path().to_owned();
    let is_grpc = path.ends_with("/Export");
    reports.lock().push((path, parts.headers, body));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = match is_grpc {
        true => vec![
            Ok(Frame::data(Bytes::from_static(&[0; 5]))),
            Ok(Frame::trailers(trailers)),
        ],
        false => Vec::new(),
    };
    let status = if is_grpc { 200 } else { 202 };
    let body = StreamBody::new(futures::stream::iter(frames));
    Ok(Response::builder().status(status).body(body).unwrap())
}

fn provider(config: xds::client::Any) -> trace::tracing::Http {
    trace::tracing::Http {
        name: "tracer".into(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(config)),
    }
}

fn zipkin(change: impl FnOnce(&mut trace::ZipkinConfig)) -> trace::tracing::Http {
    let mut config = trace::ZipkinConfig {
        collector_cluster: "collector".into(),
        collector_endpoint: "/api/v2/spans".into(),
        collector_endpoint_version: trace::zipkin_config::CollectorEndpointVersion::HttpJson.into(),
        ..Default::default()
    };
    change(&mut config);
    provider(any(&config))
}

fn otlp(change: impl FnOnce(&mut trace::OpenTelemetryConfig)) -> trace::tracing::Http {
    let mut config = trace::OpenTelemetryConfig {
        service_name: "svc".into(),
        ..Default::default()
    };
    change(&mut config);
    provider(any(&config))
}

fn otlp_http(cluster: &str) -> core::HttpService {
    core::HttpService {
        http_uri: Some(core::HttpUri {
            uri: "http://otel.example:4318/v1/traces".into(),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster.into())),
            timeout: Some(Duration {
                seconds: 20,
                nanos: 0,
            }),
        }),
        request_headers_to_add: vec![core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: "x-token".into(),
                value: "t0k".into(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

struct Stage {
    proxy: Proxy,
    front: SocketAddr,
    reports: Reports,
}

impl Stage {
    async fn new(is_outbound: bool, tracing: hcm::http_connection_manager::Tracing) -> Stage {
        let (at, reports) = collector().await;
        let gone = {
            let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
            nobody.local_addr().unwrap()
        };
        let mut proxy = Proxy::new(None);
        for cluster in [
            static_cluster("app", &[application().await], Http::One),
            static_cluster("gone", &[gone], Http::One),
            static_cluster("collector", &[at], Http::One),
            static_cluster("collector2", &[at], Http::Two),
        ] {
            proxy.push(Kind::Cluster, vec![(&cluster.name, any(&cluster))], &[]);
        }
        let manager = hcm::HttpConnectionManager {
            stat_prefix: "test".into(),
            http_filters: vec![http_filter("router", any(&Router::default()))],
            always_set_request_id_in_response: true,
            tracing: Some(tracing),
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(
                hcm::Rds {
                    route_config_name: "r".into(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        };
        let chain = envoy_types::pb::envoy::config::listener::v3::FilterChain {
            filters: vec![network_filter("hcm", any(&manager))],
            ..Default::default()
        };
        let mut front = listener("front", vec![chain], false);
        front.traffic_direction = match is_outbound {
            true => core::TrafficDirection::Outbound.into(),
            false => core::TrafficDirection::Inbound.into(),
        };
        proxy.push(Kind::Listener, vec![("front", any(&front))], &[]);
        let mut table = routes("r", vec![("/gone", "gone"), ("/.*", "app")]);
        let host = &mut table.virtual_hosts[0];
        host.retry_policy = Some(route::RetryPolicy {
            retry_on: "connect-failure".into(),
            num_retries: Some(UInt32Value { value: 1 }),
            ..Default::default()
        });
        host.routes.insert(0, decorated());
        proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
        let front = proxy.address("front");
        Stage {
            proxy,
            front,
            reports,
        }
    }

    async fn reported(&self, count: usize) {
        eventually("spans are reported", async || {
            self.reports.lock().len() >= count
        })
        .await;
    }

    /// All of Zipkin's spans so far, once there are so many.
    async fn zipkin(&self, count: usize) -> Vec<Json> {
        let all = || {
            let reports = self.reports.lock();
            let reports = reports.iter();
            let of = |body: &Bytes| serde_json::from_slice::<Vec<Json>>(body).unwrap();
            reports
                .flat_map(|(_, _, body)| of(body))
                .collect::<Vec<_>>()
        };
        eventually("spans are reported", async || all().len() >= count).await;
        all()
    }
}

use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;

fn decorated() -> route::Route {
    let mut route = routes("x", vec![("/named", "app")]).virtual_hosts[0].routes[0].clone();
    route.decorator = Some(route::Decorator {
        operation: "checkout".into(),
        propagate: None,
    });
    route
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(of, _)| *of == name).map(|(_, value)| value)
}

/// The request's headers as the application saw them.
fn seen(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn tag(name: &str, kind: tags::custom_tag::Type) -> tags::CustomTag {
    tags::CustomTag {
        tag: name.into(),
        r#type: Some(kind),
    }
}

#[tokio::test]
async fn an_inbound_span_joins_the_clients() {
    use tags::custom_tag::{Environment, Header, Literal, Type};
    let from_header = Header {
        name: "x-tag".into(),
        default_value: "none".into(),
    };
    let from_environment = Environment {
        name: "NO_SUCH_VARIABLE".into(),
        ..Default::default()
    };
    let stage = Stage::new(
        false,
        hcm::http_connection_manager::Tracing {
            provider: Some(zipkin(|_| ())),
            max_path_tag_length: Some(UInt32Value { value: 7 }),
            verbose: true,
            custom_tags: vec![
                tag("literal", Type::Literal(Literal { value: "x".into() })),
                tag("header", Type::RequestHeader(from_header)),
                tag("environment", Type::Environment(from_environment)),
                tag("format", Type::Value("%REQ(:path)%-%RESPONSE_CODE%".into())),
            ],
            ..Default::default()
        },
    )
    .await;
    let context = "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124\r\nx-b3-spanid: a2fb4a1d1a96d312\r\nx-b3-parentspanid: 0020000000000001\r\nx-b3-sampled: 1\r\nx-tag: mine\r\n";
    let answer = get(stage.front, "/abcdefgh", &format!("{ID}{context}")).await;
    let marked = "11111111-1111-9111-8111-111111111111";
    for (name, value) in [
        ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
        ("x-b3-spanid", "a2fb4a1d1a96d312"),
        ("x-b3-parentspanid", "0020000000000001"),
        ("x-b3-sampled", "1"),
        ("x-request-id", marked),
    ] {
        assert_eq!(header(seen(&answer), name), Some(value), "{answer}");
    }
    assert_eq!(header(&answer, "x-request-id"), Some(marked));
    let spans = stage.zipkin(1).await;
    let span = &spans[0];
    assert_eq!(span["id"], "a2fb4a1d1a96d312");
    assert_eq!(span["parentId"], "0020000000000001");
    assert_eq!(
        (&span["shared"], &span["kind"]),
        (&true.into(), &"SERVER".into())
    );
    assert_eq!(span["name"], "web.ns");
    for (name, value) in [
        ("component", "proxy"),
        ("http.url", "http://web.ns/abcdef"),
        ("http.method", "GET"),
        ("http.protocol", "HTTP/1.1"),
        ("http.status_code", "200"),
        ("response_flags", "-"),
        ("upstream_cluster", "app"),
        ("upstream_cluster.name", "app"),
        ("peer.address", "127.0.0.1"),
        ("downstream_cluster", "-"),
        ("user_agent", "-"),
        ("request_size", "0"),
        ("guid:x-request-id", marked),
        ("literal", "x"),
        ("header", "mine"),
        ("format", "/abcdefgh-200"),
    ] {
        assert_eq!(span["tags"][name], value, "{name}: {span}");
    }
    assert_eq!(span["tags"].get("environment"), None);
    let happened = span["annotations"].as_array().unwrap().iter();
    let happened: Vec<&str> = happened.map(|one| one["value"].as_str().unwrap()).collect();
    assert_eq!(happened.last(), Some(&"ss"));
    assert!(
        happened.contains(&"first_upstream_rx_byte_received"),
        "{happened:?}"
    );
    let (path, headers, _) = &stage.reports.lock()[0];
    assert_eq!(path, "/api/v2/spans");
    assert_eq!(
        (&headers["host"], &headers["content-type"]),
        (
            &"collector".parse().unwrap(),
            &"application/json".parse().unwrap()
        )
    );
    let stats = stage.proxy.stats();
    assert!(
        stats.contains("http.test.tracing.random_sampling: 1\n"),
        "{stats}"
    );
}

#[tokio::test]
async fn an_outbound_span_is_a_clients_below_its_caller() {
    let tracing = hcm::http_connection_manager::Tracing {
        provider: Some(zipkin(|config| config.trace_id_128bit = true)),
        ..Default::default()
    };
    let stage = Stage::new(true, tracing).await;
    let single = "b3: 48485a3953bb6124-a2fb4a1d1a96d312-d\r\n";
    let answer = get(stage.front, "/a", single).await;
    let passed = header(seen(&answer), "b3").unwrap();
    let spans = stage.zipkin(1).await;
    let own = spans[0]["id"].as_str().unwrap();
    assert_eq!(passed, format!("48485a3953bb6124-{own}-1-a2fb4a1d1a96d312"));
    assert_eq!(spans[0]["kind"], "CLIENT");
    assert_eq!(spans[0].get("shared"), None);
    // A new trace has a long id, and names itself to the next proxy.
    let answer = get(stage.front, "/named", "").await;
    assert_eq!(header(seen(&answer), "x-b3-traceid").unwrap().len(), 32);
    assert_eq!(
        header(seen(&answer), "x-envoy-decorator-operation"),
        Some("checkout")
    );
    let spans = stage.zipkin(2).await;
    assert_eq!(spans[1]["name"], "checkout");
}

#[tokio::test]
async fn attempts_have_spans_of_their_own() {
    let tracing = hcm::http_connection_manager::Tracing {
        provider: Some(zipkin(|_| ())),
        spawn_upstream_span: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let stage = Stage::new(false, tracing).await;
    let answer = get(stage.front, "/gone", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let spans = stage.zipkin(3).await;
    let [first, second, whole] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    for attempt in [first, second] {
        assert_eq!(attempt["name"], "router gone egress");
        assert_eq!(attempt["parentId"], whole["id"]);
        assert_eq!(
            (&attempt["kind"], &attempt["tags"]["error"]),
            (&"CLIENT".into(), &"true".into())
        );
    }
    assert_eq!(first["tags"].get("retry.count"), None);
    assert_eq!(second["tags"]["retry.count"], "1");
    assert_eq!(whole["tags"]["response_flags"], "UF,URX");
    assert_eq!(
        (&whole["kind"], &whole["tags"]["error"]),
        (&"SERVER".into(), &"true".into())
    );
    let answer = get(stage.front, "/named", "").await;
    assert_eq!(
        header(&answer, "x-envoy-decorator-operation"),
        Some("checkout")
    );
    let spans = stage.zipkin(5).await;
    let attempt = &spans[3];
    assert_eq!(header(seen(&answer), "x-b3-spanid"), attempt["id"].as_str());
    assert_eq!(attempt["tags"]["http.status_code"], "200");
}

#[tokio::test]
async fn what_is_not_sampled_is_told_and_not_reported() {
    let tracing = hcm::http_connection_manager::Tracing {
        provider: Some(zipkin(|_| ())),
        random_sampling: Some(Percent { value: 0.0 }),
        ..Default::default()
    };
    let stage = Stage::new(false, tracing).await;
    let answer = get(stage.front, "/no", ID).await;
    assert_eq!(header(seen(&answer), "x-b3-sampled"), Some("0"));
    assert_eq!(
        header(&answer, "x-request-id"),
        Some("11111111-1111-4111-8111-111111111111")
    );
    // Who asks for it is traced, and what is no context ends here.
    let answer = get(
        stage.front,
        "/bad",
        "x-b3-traceid: xyz\r\nx-b3-spanid: 1\r\n",
    )
    .await;
    assert_eq!(header(seen(&answer), "x-b3-traceid"), Some("xyz"));
    assert_eq!(header(seen(&answer), "x-b3-sampled"), None);
    let answer = get(
        stage.front,
        "/client",
        &format!("{ID}x-client-trace-id: c\r\n"),
    )
    .await;
    assert_eq!(
        header(seen(&answer), "x-request-id"),
        Some("11111111-1111-b111-8111-111111111111")
    );
    let spans = stage.zipkin(1).await;
    assert_eq!(spans[0]["tags"]["guid:x-client-trace-id"], "c");
    assert_eq!(spans[0]["tags"]["http.url"], "http://web.ns/client");
    let stats = stage.proxy.stats();
    for line in ["tracing.not_traceable: 2\n", "tracing.client_enabled: 1\n"] {
        assert!(stats.contains(line), "{line}");
    }
}

#[tokio::test]
async fn otlp_goes_over_http_and_over_grpc() {
    let over_http = otlp(|config| config.http_service = Some(otlp_http("collector")));
    let over_grpc = otlp(|config| {
        config.grpc_service = Some(core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
                core::grpc_service::EnvoyGrpc {
                    cluster_name: "collector2".into(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        });
    });
    for (provider, is_grpc) in [(over_http, false), (over_grpc, true)] {
        let tracing = hcm::http_connection_manager::Tracing {
            provider: Some(provider),
            ..Default::default()
        };
        let stage = Stage::new(false, tracing).await;
        let context = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b,c=d\r\n";
        let answer = get(stage.front, "/a", context).await;
        let passed = header(seen(&answer), "traceparent").unwrap().to_owned();
        assert_eq!(header(seen(&answer), "tracestate"), Some("a=b,c=d"));
        assert_eq!(header(seen(&answer), "x-b3-traceid"), None);
        stage.reported(1).await;
        let (path, headers, body) = stage.reports.lock()[0].clone();
        let body = match is_grpc {
            true => {
                assert_eq!(
                    path,
                    "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
                );
                body.slice(5..)
            }
            false => {
                assert_eq!(path, "/v1/traces");
                assert_eq!(
                    (&headers["host"], &headers["x-token"]),
                    (
                        &"otel.example:4318".parse().unwrap(),
                        &"t0k".parse().unwrap()
                    )
                );
                body
            }
        };
        let request = ExportRequest::decode(body).unwrap();
        let spans = &request.resource_spans[0];
        let attributes = format!("{:?}", spans.resource);
        assert!(attributes.contains("service.name") && attributes.contains("svc"));
        let span = &spans.scope_spans[0].spans[0];
        let own: String = span
            .span_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            passed,
            format!("00-0af7651916cd43dd8448eb211c80319c-{own}-01")
        );
        assert_eq!(
            (span.name.as_str(), span.trace_state.as_str()),
            ("ingress", "a=b,c=d")
        );
        assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
        eventually("it is counted", async || {
            stage
                .proxy
                .stats()
                .contains("tracing.opentelemetry.spans_sent: 1\n")
        })
        .await;
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_spans_and_no_requests() {
    let tracing = hcm::http_connection_manager::Tracing {
        provider: Some(otlp(|config| {
            config.http_service = Some(otlp_http("gone"));
            config.max_cache_size = Some(UInt32Value { value: 2 });
        })),
        ..Default::default()
    };
    let stage = Stage::new(false, tracing).await;
    for _ in 0..5 {
        let answer = get(stage.front, "/a", "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Three found the queue full, two found nobody.
    eventually("all are counted", async || {
        stage
            .proxy
            .stats()
            .contains("tracing.opentelemetry.spans_dropped: 5\n")
    })
    .await;
}

#[tokio::test]
async fn what_waits_is_sent_before_the_end() {
    let tracing = hcm::http_connection_manager::Tracing {
        provider: Some(zipkin(|_| ())),
        ..Default::default()
    };
    let stage = Stage::new(false, tracing).await;
    get(stage.front, "/a", "").await;
    let exporters = &stage.proxy.shared.tracers.exporters;
    exporters.flush(std::time::Duration::from_secs(20)).await;
    assert_eq!(stage.reports.lock().len(), 1);
}
