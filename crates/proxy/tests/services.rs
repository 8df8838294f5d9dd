//! Filters that ask services: rate limits and authorization, over gRPC and HTTP, with real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as common;
use envoy_types::pb::envoy::extensions::filters::http::{
    ext_authz::v3 as authz, ratelimit::v3 as limits,
};
use envoy_types::pb::envoy::extensions::filters::network::{
    ext_authz::v3::ExtAuthz as NetworkAuthz, ratelimit::v3::RateLimit as NetworkLimit,
};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use envoy_types::pb::envoy::r#type::v3 as kinds;
use envoy_types::pb::google::protobuf::{BoolValue, Duration};
use envoy_types::pb::google::rpc;
use parking_lot::Mutex;
use support::peers::{application, echo, get, raw};
use support::{
    Authority, Http, Proxy, any, exact, filtered_chain, http_filter, listener, mesh_cluster,
    network_filter, routes, static_cluster, tcp_chain, with_mtls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use xds::client::{Any, Kind};

/// Both services: they keep what they were asked, and answer by words in it.
#[derive(Default)]
struct Services {
    limits: Mutex<Vec<(RateLimitRequest, Option<String>)>>,
    checks: Mutex<Vec<CheckRequest>>,
}

fn value(key: &str, value: &str) -> core::HeaderValue {
    core::HeaderValue {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

fn option(key: &str, text: &str, append: Option<bool>) -> core::HeaderValueOption {
    #[allow(deprecated)]
    core::HeaderValueOption {
        header: Some(value(key, text)),
        append: append.map(|value| BoolValue { value }),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl RateLimitService for Services {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let metadata = request.metadata().get("x-asked-by");
        let metadata = metadata.map(|value| value.to_str().unwrap().to_owned());
        let question = request.into_inner();
        self.limits.lock().push((question.clone(), metadata));
        let says = |word: &str| format!("{question:?}").contains(word);
        if says("broken") {
            return Err(Status::unavailable("no"));
        }
        if says("slow") {
            std::future::pending::<()>().await;
        }
        let code = if says("over") {
            Code::OverLimit
        } else {
            Code::Ok
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            statuses: vec![DescriptorStatus {
                code: code.into(),
                current_limit: Some(RateLimit {
                    name: "nm".into(),
                    requests_per_unit: 10,
                    unit: 2,
                }),
                limit_remaining: 3,
                duration_until_reset: Some(Duration {
                    seconds: 42,
                    nanos: 0,
                }),
                ..Default::default()
            }],
            response_headers_to_add: vec![value("x-rls", "answer")],
            request_headers_to_add: vec![value("x-rls-request", "w")],
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl Authorization for Services {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let question = request.into_inner();
        self.checks.lock().push(question.clone());
        let attributes = question.attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http);
        let path = http.map(|http| http.path).unwrap_or_default();
        let status = |code| {
            Some(rpc::Status {
                code,
                ..Default::default()
            })
        };
        let answer = match path.as_str() {
            "/slow" => std::future::pending().await,
            "/broken" => return Err(Status::unavailable("no")),
            "/deny" => CheckResponse {
                status: status(7),
                http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(kinds::HttpStatus { code: 401 }),
                    headers: vec![option("x-deny", "1", None), option("x-deny", "2", None)],
                    body: "go away".into(),
                })),
                ..Default::default()
            },
            "/refuse" => CheckResponse {
                status: status(7),
                ..Default::default()
            },
            path if path.starts_with("/change") => CheckResponse {
                status: status(0),
                http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                    headers: vec![
                        option("x-set", "new", None),
                        option("x-add", "more", Some(true)),
                        option("x-absent", "more", Some(true)),
                        option(":path", "/changed?keep=1", None),
                    ],
                    headers_to_remove: vec!["x-gone".into(), "host".into()],
                    response_headers_to_add: vec![option("x-for-client", "yes", None)],
                    query_parameters_to_remove: vec!["q".into()],
                    ..Default::default()
                })),
                ..Default::default()
            },
            _ => CheckResponse {
                status: status(0),
                ..Default::default()
            },
        };
        Ok(Response::new(answer))
    }
}

async fn serve() -> (Arc<Services>, SocketAddr) {
    let services = Arc::new(Services::default());
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(RateLimitServiceServer::from_arc(services.clone()))
        .add_service(AuthorizationServer::from_arc(services.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(socket)));
    (services, address)
}

fn grpc(cluster: &str, milliseconds: i32) -> core::GrpcService {
    core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc {
                cluster_name: cluster.into(),
                ..Default::default()
            },
        )),
        timeout: Some(timeout(milliseconds)),
        initial_metadata: vec![value("x-asked-by", "%REQ(x-who)%")],
        ..Default::default()
    }
}

fn timeout(milliseconds: i32) -> Duration {
    Duration {
        seconds: i64::from(milliseconds / 1000),
        nanos: milliseconds % 1000 * 1_000_000,
    }
}

/// A proxy whose clusters are the application, the services and one where nobody listens.
async fn proxy(services: SocketAddr) -> Proxy {
    let mut proxy = Proxy::new(None);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = nobody.local_addr().unwrap();
    drop(nobody);
    let clusters = [
        static_cluster("app", &[application().await], Http::One),
        static_cluster("echo", &[echo().await], Http::One),
        static_cluster("services", &[services], Http::Two),
        static_cluster("gone", &[gone], Http::Two),
    ];
    for cluster in &clusters {
        proxy.push(Kind::Cluster, vec![(&cluster.name, any(cluster))], &[]);
    }
    proxy
}

fn http_front(
    proxy: &mut Proxy,
    filter: Any,
    paths: &[&str],
    change: impl FnOnce(&mut route::VirtualHost),
) -> SocketAddr {
    let chain = filtered_chain("r", vec![http_filter("filter", filter)]);
    let front = listener("front", vec![chain], false);
    proxy.push(Kind::Listener, vec![("front", any(&front))], &[]);
    let mut table = routes("r", paths.iter().map(|path| (*path, "app")).collect());
    change(&mut table.virtual_hosts[0]);
    proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
    proxy.address("front")
}

fn tcp_front(proxy: &mut Proxy, name: &str, filter: Any) -> SocketAddr {
    let mut chain = tcp_chain("echo");
    chain.filters.insert(0, network_filter("filter", filter));
    let front = listener(name, vec![chain], false);
    proxy.push(Kind::Listener, vec![(name, any(&front))], &[]);
    proxy.address(name)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn header<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let lines = answer.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(of, _)| *of == name)
        .map(|(_, value)| value)
        .collect()
}

async fn says(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(b"hi").await;
    let _ = stream.shutdown().await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn generic(value: &str) -> route::RateLimit {
    use route::rate_limit::action::{ActionSpecifier, GenericKey, RemoteAddress, RequestHeaders};
    let action = |specifier| route::rate_limit::Action {
        action_specifier: Some(specifier),
    };
    route::RateLimit {
        actions: vec![
            action(ActionSpecifier::GenericKey(GenericKey {
                descriptor_value: value.into(),
                ..Default::default()
            })),
            action(ActionSpecifier::RemoteAddress(RemoteAddress {})),
            action(ActionSpecifier::RequestHeaders(RequestHeaders {
                header_name: "x-who".into(),
                descriptor_key: "who".into(),
                skip_if_absent: value != "strict",
            })),
        ],
        ..Default::default()
    }
}

fn rate_limit(cluster: &str, deny: bool) -> limits::RateLimit {
    limits::RateLimit {
        domain: "dom".into(),
        timeout: Some(timeout(5000)),
        failure_mode_deny: deny,
        enable_x_ratelimit_headers: 1,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(grpc(cluster, 0)),
            transport_api_version: core::ApiVersion::V3.into(),
        }),
        ..Default::default()
    }
}

fn limited(host: &mut route::VirtualHost, words: &[&str]) {
    for (route, word) in host.routes.iter_mut().zip(words) {
        let Some(route::route::Action::Route(action)) = &mut route.action else {
            panic!("not a route");
        };
        action.rate_limits = vec![generic(word)];
    }
}

#[tokio::test]
async fn a_rate_limit_service_is_asked_by_descriptors_and_obeyed() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = any(&rate_limit("services", true));
    let paths = ["/ok", "/over", "/broken", "/strict"];
    let words = ["fine", "over", "broken", "strict"];
    let front = http_front(&mut proxy, filter, &paths, |host| limited(host, &words));

    let ok = get(front, "/ok", "x-who: me\r\n").await;
    assert_eq!(status(&ok), "200", "{ok}");
    assert_eq!(header(&ok, "x-rls"), ["answer"]);
    assert_eq!(header(&ok, "x-rls-request"), ["w"]);
    assert_eq!(
        header(&ok, "x-ratelimit-limit"),
        ["10, 10;w=60;name=\"nm\""]
    );
    assert_eq!(header(&ok, "x-ratelimit-reset"), ["42"]);
    let over = get(front, "/over", "").await;
    assert_eq!(status(&over), "429", "{over}");
    assert_eq!(header(&over, "x-envoy-ratelimited"), ["true"]);
    assert_eq!(header(&over, "x-rls"), ["answer"]);
    let broken = get(front, "/broken", "").await;
    assert_eq!(status(&broken), "500", "{broken}");
    // A descriptor that lacks an entry is no descriptor: nobody is asked.
    assert_eq!(status(&get(front, "/strict", "").await), "200");

    let asked = services.limits.lock().clone();
    assert_eq!(asked.len(), 3);
    let (first, by) = &asked[0];
    assert_eq!(by.as_deref(), Some("me"));
    assert_eq!(first.domain, "dom");
    let entries = |descriptor: &common::RateLimitDescriptor| -> Vec<String> {
        let entries = descriptor.entries.iter();
        entries
            .map(|entry| format!("{}={}", entry.key, entry.value))
            .collect()
    };
    assert_eq!(
        entries(&first.descriptors[0]),
        ["generic_key=fine", "remote_address=127.0.0.1", "who=me"]
    );
    let stats = proxy.stats();
    for line in ["ok: 1", "over_limit: 1", "error: 1"] {
        let line = format!("cluster.app.ratelimit.{line}");
        assert!(stats.contains(&line), "{line}\n{stats}");
    }
}

#[tokio::test]
async fn a_rate_limit_service_that_fails_is_passed_over_unless_it_must_not() {
    let (_services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = any(&rate_limit("gone", false));
    let front = http_front(&mut proxy, filter, &["/get"], |host| limited(host, &["x"]));
    assert_eq!(status(&get(front, "/get", "").await), "200");
    let late = limits::RateLimit {
        timeout: Some(timeout(20)),
        status_on_error: Some(kinds::HttpStatus { code: 503 }),
        ..rate_limit("services", true)
    };
    let front = http_front(&mut proxy, any(&late), &["/get"], |host| {
        limited(host, &["slow"]);
    });
    assert_eq!(status(&get(front, "/get", "").await), "503");
}

#[tokio::test]
async fn connections_are_counted_by_a_rate_limit_service() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = |word: &str, deny| {
        let base = rate_limit("services", deny);
        any(&NetworkLimit {
            stat_prefix: "conn".into(),
            domain: "dom".into(),
            timeout: base.timeout,
            failure_mode_deny: deny,
            rate_limit_service: base.rate_limit_service,
            descriptors: vec![common::RateLimitDescriptor {
                entries: vec![common::rate_limit_descriptor::Entry {
                    key: word.into(),
                    value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%".into(),
                }],
                ..Default::default()
            }],
        })
    };
    for (word, deny, expected) in [
        ("fine", true, "hi bye"),
        ("over", false, ""),
        ("broken", false, "hi bye"),
        ("broken", true, ""),
    ] {
        let front = tcp_front(&mut proxy, "front", filter(word, deny));
        assert_eq!(says(front).await, expected, "{word} {deny}");
    }
    let asked = services.limits.lock().clone();
    let entry = &asked[0].0.descriptors[0].entries[0];
    assert_eq!(entry.value, "127.0.0.1");
    let stats = proxy.stats();
    for line in [
        "total: 4",
        "ok: 1",
        "over_limit: 1",
        "error: 2",
        "failure_mode_allowed: 1",
        "cx_closed: 2",
    ] {
        let line = format!("ratelimit.conn.{line}");
        assert!(stats.contains(&line), "{line}\n{stats}");
    }
}

fn ext_authz(cluster: &str, milliseconds: i32) -> authz::ExtAuthz {
    authz::ExtAuthz {
        services: Some(authz::ext_authz::Services::GrpcService(grpc(
            cluster,
            milliseconds,
        ))),
        transport_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    }
}

fn route_settings(settings: authz::CheckSettings) -> Any {
    any(&authz::ExtAuthzPerRoute {
        r#override: Some(authz::ext_authz_per_route::Override::CheckSettings(
            settings,
        )),
    })
}

#[tokio::test]
async fn an_authorization_service_sees_the_request_and_decides() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let filter = authz::ExtAuthz {
        include_tls_session: true,
        disallowed_headers: Some(ListStringMatcher {
            patterns: vec![exact("x-secret")],
        }),
        ..ext_authz("services", 5000)
    };
    let front = http_front(&mut proxy, any(&filter), &["/off", "/.*"], |host| {
        let context = |key: &str, value: &str| {
            route_settings(authz::CheckSettings {
                context_extensions: [(key.into(), value.into()), ("level".into(), value.into())]
                    .into(),
                ..Default::default()
            })
        };
        host.typed_per_filter_config
            .insert("filter".into(), context("host", "h"));
        host.routes[1]
            .typed_per_filter_config
            .insert("filter".into(), context("route", "r"));
        let off = authz::ExtAuthzPerRoute {
            r#override: Some(authz::ext_authz_per_route::Override::Disabled(true)),
        };
        host.routes[0]
            .typed_per_filter_config
            .insert("filter".into(), any(&off));
    });

    let ok = get(front, "/get?a=1", "x-a: 1\r\nx-a: 2\r\nx-secret: s\r\n").await;
    assert_eq!(status(&ok), "200", "{ok}");
    let denied = get(front, "/deny", "").await;
    assert_eq!(status(&denied), "401", "{denied}");
    assert_eq!(header(&denied, "x-deny"), ["1", "2"]);
    assert!(denied.ends_with("\r\n\r\ngo away"), "{denied}");
    let refused = get(front, "/refuse", "").await;
    assert_eq!(status(&refused), "403", "{refused}");
    let grpc = get(front, "/refuse", "content-type: application/grpc\r\n").await;
    assert_eq!(header(&grpc, "grpc-status"), ["7"], "{grpc}");
    assert_eq!(status(&get(front, "/broken", "").await), "403");
    assert_eq!(status(&get(front, "/off", "").await), "200");
    let more = "x-set: old\r\nx-add: one\r\nx-gone: 1\r\n";
    let changed = get(front, "/change?q=1", more).await;
    assert!(changed.contains("GET /changed HTTP/1.1\n"), "{changed}");
    assert_eq!(header(&changed, "x-set"), ["new"]);
    assert_eq!(header(&changed, "x-add"), ["one,more"]);
    assert!(header(&changed, "x-absent").is_empty());
    assert!(header(&changed, "x-gone").is_empty());
    assert_eq!(header(&changed, "x-for-client"), ["yes"]);
    assert_eq!(header(&changed, "host"), ["web.ns"]);

    let asked = services.checks.lock().clone();
    assert_eq!(asked.len(), 6, "not for the route that is off");
    let attributes = asked[0].attributes.clone().unwrap();
    let request = attributes.request.unwrap().http.unwrap();
    assert_eq!(request.method, "GET");
    assert_eq!(request.path, "/get?a=1");
    assert_eq!(request.host, "web.ns");
    assert_eq!(request.scheme, "http");
    assert_eq!(request.protocol, "HTTP/1.1");
    assert_eq!(request.headers["x-a"], "1,2");
    assert_eq!(request.headers[":path"], "/get?a=1");
    assert!(!request.headers.contains_key("x-secret"));
    let context: std::collections::BTreeMap<_, _> =
        attributes.context_extensions.into_iter().collect();
    let text: Vec<String> = context.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(text, ["host=h", "level=r", "route=r"]);
    assert!(attributes.source.unwrap().principal.is_empty());
    let stats = proxy.stats();
    for line in ["ok: 2", "denied: 3", "error: 1"] {
        for prefix in ["http.test", "cluster.app"] {
            let line = format!("{prefix}.ext_authz.{line}");
            assert!(stats.contains(&line), "{line}\n{stats}");
        }
    }
}

#[tokio::test]
async fn an_authorization_service_is_shown_as_much_of_the_body_as_it_wants() {
    let (services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let settings = |partial, bytes| authz::BufferSettings {
        max_request_bytes: 4,
        allow_partial_message: partial,
        pack_as_bytes: bytes,
    };
    let filter = authz::ExtAuthz {
        with_request_body: Some(settings(true, false)),
        ..ext_authz("services", 5000)
    };
    let paths = ["/whole", "/none", "/.*"];
    let front = http_front(&mut proxy, any(&filter), &paths, |host| {
        let whole = authz::CheckSettings {
            with_request_body: Some(settings(false, true)),
            ..Default::default()
        };
        let none = authz::CheckSettings {
            disable_request_body_buffering: true,
            ..Default::default()
        };
        for (index, settings) in [whole, none].into_iter().enumerate() {
            let config = route_settings(settings);
            let route = &mut host.routes[index];
            route
                .typed_per_filter_config
                .insert("filter".into(), config);
        }
    });
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let chunked = "POST /x HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    // The request, the answer's status, what the application got, what the service saw.
    let cases = [
        (
            post("/x", "hello world"),
            "200",
            "body: 11",
            Some(("hell", "true")),
        ),
        (post("/x", "hey"), "200", "body: 3", Some(("hey", "false"))),
        (chunked.to_owned(), "200", "body: 6", Some(("abcd", "true"))),
        (
            post("/whole", "four"),
            "200",
            "body: 4",
            Some(("four", "false")),
        ),
        (post("/whole", "fiver"), "413", "Payload Too Large", None),
        (post("/none", "hello"), "200", "body: 5", Some(("", ""))),
    ];
    for (request, expected, body, seen) in cases {
        let answer = raw(front, request.as_bytes()).await.unwrap();
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(answer.contains(body), "{answer}");
        let asked = services.checks.lock().pop();
        let asked = asked.map(|asked| {
            let request = asked.attributes.unwrap().request.unwrap().http.unwrap();
            let partial = request.headers.get("x-envoy-auth-partial-body").cloned();
            let text = match request.body.is_empty() {
                true => String::from_utf8(request.raw_body).unwrap(),
                false => request.body,
            };
            (text, partial.unwrap_or_default())
        });
        let asked = asked
            .as_ref()
            .map(|(text, partial)| (text.as_str(), partial.as_str()));
        assert_eq!(asked, seen, "{request}");
    }
}

#[tokio::test]
async fn an_authorization_service_that_fails_is_passed_over_where_that_is_allowed() {
    let (_services, at) = serve().await;
    let mut proxy = proxy(at).await;
    for (cluster, path, allowed, expected) in [
        ("gone", "/get", false, "403"),
        ("gone", "/get", true, "200"),
        ("services", "/slow", false, "403"),
        ("services", "/slow", true, "200"),
        ("unknown", "/get", false, "403"),
    ] {
        let filter = authz::ExtAuthz {
            failure_mode_allow: allowed,
            failure_mode_allow_header_add: true,
            ..ext_authz(cluster, 50)
        };
        let front = http_front(&mut proxy, any(&filter), &["/.*"], |_| ());
        let answer = get(front, path, "").await;
        assert_eq!(status(&answer), expected, "{cluster} {allowed}: {answer}");
        let told = header(&answer, "x-envoy-auth-failure-mode-allowed");
        assert_eq!(told.len(), usize::from(allowed), "{answer}");
    }
}

#[tokio::test]
async fn an_authorization_service_learns_both_identities_of_a_connection() {
    let ca = Authority::new();
    let (services, at) = serve().await;
    let mut server = Proxy::new(Some(ca.leaf("server")));
    for cluster in [
        static_cluster("echo", &[echo().await], Http::One),
        static_cluster("services", &[at], Http::Two),
    ] {
        server.push(Kind::Cluster, vec![(&cluster.name, any(&cluster))], &[]);
    }
    let config = NetworkAuthz {
        stat_prefix: "conn".into(),
        grpc_service: Some(grpc("services", 5000)),
        transport_api_version: core::ApiVersion::V3.into(),
        include_peer_certificate: true,
        include_tls_session: true,
        ..Default::default()
    };
    let mut chain = tcp_chain("echo");
    chain
        .filters
        .insert(0, network_filter("authz", any(&config)));
    let front = listener("inbound", vec![with_mtls(chain, &ca)], true);
    server.push(Kind::Listener, vec![("inbound", any(&front))], &[]);
    let mut client = Proxy::new(Some(ca.leaf("client")));
    let expected = "spiffe://cluster.local/server/ns";
    let mesh = mesh_cluster(
        "mesh",
        server.address("inbound"),
        Http::One,
        &ca,
        &[expected],
    );
    client.push(Kind::Cluster, vec![("mesh", any(&mesh))], &[]);
    let front = listener("outbound", vec![tcp_chain("mesh")], false);
    client.push(Kind::Listener, vec![("outbound", any(&front))], &[]);
    assert_eq!(says(client.address("outbound")).await, "hi bye");
    let asked = services.checks.lock()[0].attributes.clone().unwrap();
    let source = asked.source.unwrap();
    assert_eq!(source.principal, "spiffe://cluster.local/client/ns");
    let certificate = source.certificate;
    assert!(
        certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0AMI"),
        "{certificate}"
    );
    assert_eq!(asked.destination.unwrap().principal, expected);
    assert_eq!(asked.tls_session.unwrap().sni, "web.ns.svc.cluster.local");
    let stats = server.stats();
    assert!(stats.contains("ext_authz.conn.ok: 1"), "{stats}");
}

#[tokio::test]
async fn an_http_service_may_decide_too() {
    // The application stands in for the service: it answers 200 and repeats what it was asked.
    let (_services, at) = serve().await;
    let mut proxy = proxy(at).await;
    let service = |cluster: &str| authz::HttpService {
        server_uri: Some(core::HttpUri {
            uri: "http://ignored".into(),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster.into())),
            timeout: Some(timeout(5000)),
        }),
        path_prefix: "/authz".into(),
        authorization_response: Some(authz::AuthorizationResponse {
            allowed_upstream_headers: Some(ListStringMatcher {
                patterns: vec![exact("x-verdict")],
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let filter = |cluster: &str| authz::ExtAuthz {
        services: Some(authz::ext_authz::Services::HttpService(service(cluster))),
        allowed_headers: Some(ListStringMatcher {
            patterns: vec![exact("x-shown")],
        }),
        ..Default::default()
    };
    let judge = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = static_cluster("judge", &[judge.local_addr().unwrap()], Http::One);
    proxy.push(Kind::Cluster, vec![("judge", any(&cluster))], &[]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = judge.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while stream.read_buf(&mut head).await.unwrap_or(0) > 0 {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
                    let answer = if text.contains("/deny") {
                        "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 3\r\n\r\nno!"
                    } else {
                        "HTTP/1.1 200 OK\r\nx-verdict: fine\r\nx-other: 1\r\ncontent-length: 0\r\n\r\n"
                    };
                    asked.lock().push(text);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let front = http_front(&mut proxy, any(&filter("judge")), &["/.*"], |_| ());
    let more = "x-shown: 1\r\nx-hidden: 1\r\nauthorization: token\r\n";
    let ok = get(front, "/get?q=1", more).await;
    assert_eq!(status(&ok), "200", "{ok}");
    assert_eq!(header(&ok, "x-verdict"), ["fine"]);
    assert!(header(&ok, "x-other").is_empty(), "{ok}");
    let denied = get(front, "/deny", "").await;
    assert_eq!(status(&denied), "302", "{denied}");
    assert_eq!(header(&denied, "location"), ["/login"]);
    assert!(denied.ends_with("\r\n\r\nno!"), "{denied}");
    let asked = seen.lock().clone();
    assert!(
        asked[0].starts_with("GET /authz/get?q=1 HTTP/1.1\r\n"),
        "{asked:?}"
    );
    for (line, present) in [
        ("x-shown: 1", true),
        ("authorization: token", true),
        ("host: web.ns", true),
        ("x-hidden", false),
    ] {
        assert_eq!(asked[0].contains(line), present, "{line}: {}", asked[0]);
    }
    let front = http_front(&mut proxy, any(&filter("gone")), &["/.*"], |_| ());
    assert_eq!(
        status(
            &raw(
                front,
                b"GET /x HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n"
            )
            .await
            .unwrap()
        ),
        "403"
    );
}
