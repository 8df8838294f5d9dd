//! HTTP filters over sockets: what a client sees, and what the application.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::common::mutation_rules::v3 as rules;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as common;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as faults;
use envoy_types::pb::envoy::extensions::filters::http::{
    buffer::v3 as buffer, cors::v3 as cors, fault::v3 as fault, header_mutation::v3 as mutation,
    health_check::v3 as health, local_ratelimit::v3 as local,
};
use envoy_types::pb::envoy::r#type::v3 as kinds;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value, Value};
use support::peers::{application, get, get2, raw};
use support::{
    Proxy, any, eventually, exact, filtered_chain, http_filter, listener, routes, static_cluster,
};
use xds::client::{Any, Kind};

/// A proxy with filters before an application; routes by path, in order.
async fn front(
    filters: Vec<(&str, Any)>,
    paths: &[&str],
    change: impl FnOnce(&mut route::VirtualHost),
) -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::new(None);
    let app = static_cluster("app", &[application().await], support::Http::One);
    proxy.push(Kind::Cluster, vec![("app", any(&app))], &[]);
    let filters = filters
        .into_iter()
        .map(|(name, config)| http_filter(name, config));
    let chain = filtered_chain("r", filters.collect());
    let front = listener("front", vec![chain], false);
    proxy.push(Kind::Listener, vec![("front", any(&front))], &[]);
    let mut table = routes("r", paths.iter().map(|path| (*path, "app")).collect());
    change(&mut table.virtual_hosts[0]);
    proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
    let address = proxy.address("front");
    (proxy, address)
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// The value of a header of the answer, or of the request as the application saw it.
fn header<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let lines = answer.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(of, _)| *of == name)
        .map(|(_, value)| value)
        .collect()
}

fn percent(numerator: u32) -> kinds::FractionalPercent {
    kinds::FractionalPercent {
        numerator,
        denominator: 0,
    }
}

fn share(numerator: u32) -> Option<core::RuntimeFractionalPercent> {
    Some(core::RuntimeFractionalPercent {
        default_value: Some(percent(numerator)),
        ..Default::default()
    })
}

fn bucket(max_tokens: u32) -> Option<kinds::TokenBucket> {
    Some(kinds::TokenBucket {
        max_tokens,
        tokens_per_fill: Some(UInt32Value { value: 1 }),
        fill_interval: Some(Duration {
            seconds: 3600,
            nanos: 0,
        }),
    })
}

fn add(name: &str, value: &str, action: i32) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.into(),
            value: value.into(),
            ..Default::default()
        }),
        append_action: action,
        ..Default::default()
    }
}

fn limit(max_tokens: u32) -> local::LocalRateLimit {
    local::LocalRateLimit {
        stat_prefix: "p".into(),
        token_bucket: bucket(max_tokens),
        filter_enabled: share(100),
        filter_enforced: share(100),
        ..Default::default()
    }
}

fn generic(value: &str) -> route::RateLimit {
    use route::rate_limit::action::{ActionSpecifier, GenericKey};
    route::RateLimit {
        actions: vec![route::rate_limit::Action {
            action_specifier: Some(ActionSpecifier::GenericKey(GenericKey {
                descriptor_value: value.into(),
                ..Default::default()
            })),
        }],
        ..Default::default()
    }
}

fn action(route: &mut route::Route) -> &mut route::RouteAction {
    match &mut route.action {
        Some(route::route::Action::Route(action)) => action,
        _ => panic!("not a route"),
    }
}

#[tokio::test]
async fn local_limits_refuse_what_their_bucket_has_no_token_for() {
    let config = local::LocalRateLimit {
        enable_x_ratelimit_headers: 1,
        enable_retry_after_header: true,
        response_headers_to_add: vec![add("x-limited", "yes", 0)],
        ..limit(2)
    };
    let (proxy, at) = front(
        vec![("lr", any(&config))],
        &["/own", "/shadow", ".*"],
        |host| {
            host.response_headers_to_add = vec![add("x-host", "1", 0)];
            let own = local::LocalRateLimit {
                status: Some(kinds::HttpStatus { code: 503 }),
                descriptors: vec![common::LocalRateLimitDescriptor {
                    entries: vec![common::rate_limit_descriptor::Entry {
                        key: "generic_key".into(),
                        value: "g".into(),
                    }],
                    token_bucket: bucket(1),
                    ..Default::default()
                }],
                ..limit(100)
            };
            let shadow = local::LocalRateLimit {
                filter_enforced: share(0),
                request_headers_to_add_when_not_enforced: vec![add("x-over", "1", 0)],
                ..limit(0)
            };
            for (index, config) in [own, shadow].iter().enumerate() {
                let config = any(config);
                host.routes[index]
                    .typed_per_filter_config
                    .insert("lr".into(), config);
            }
            action(&mut host.routes[0]).rate_limits = vec![generic("g")];
        },
    )
    .await;

    let first = get(at, "/get", "").await;
    assert_eq!(status(&first), "200", "{first}");
    assert_eq!(header(&first, "x-ratelimit-limit"), ["2"]);
    assert_eq!(header(&first, "x-ratelimit-remaining"), ["1"]);
    assert_eq!(header(&first, "x-ratelimit-reset"), ["0"]);
    let second = get2(at, "/get").await;
    assert_eq!(second.0, 200);
    let third = get(at, "/get", "").await;
    assert_eq!(status(&third), "429", "{third}");
    assert!(third.ends_with("\r\n\r\nlocal_rate_limited"), "{third}");
    assert_eq!(header(&third, "x-limited"), ["yes"]);
    assert_eq!(header(&third, "x-host"), ["1"], "the route's own, too");
    assert_eq!(header(&third, "x-ratelimit-remaining"), ["0"]);
    let wait: u64 = header(&third, "retry-after")[0].parse().unwrap();
    assert!((3590..=3600).contains(&wait), "{wait}");
    let grpc = get(at, "/get", "content-type: application/grpc\r\n").await;
    assert_eq!(status(&grpc), "200", "{grpc}");
    assert_eq!(header(&grpc, "grpc-status"), ["14"]);
    assert_eq!(header(&grpc, "grpc-message"), ["local_rate_limited"]);

    // A route's limit is its own, and counts by descriptor.
    assert_eq!(status(&get(at, "/own", "").await), "200");
    assert_eq!(status(&get(at, "/own", "").await), "503");
    let shadow = get(at, "/shadow", "").await;
    assert_eq!(status(&shadow), "200");
    assert_eq!(header(&shadow, "x-over"), ["1"]);

    let stats = proxy.stats();
    for (name, value) in [
        ("enabled", 7),
        ("ok", 3),
        ("rate_limited", 4),
        ("enforced", 3),
    ] {
        let name = format!("p.http_local_rate_limit.{name}: {value}");
        assert!(stats.contains(&name), "{name}\n{stats}");
    }
}

#[tokio::test]
async fn a_connection_may_have_a_bucket_of_its_own() {
    let config = local::LocalRateLimit {
        local_rate_limit_per_downstream_connection: true,
        ..limit(1)
    };
    let (_proxy, at) = front(vec![("lr", any(&config))], &[".*"], |_| ()).await;
    for _ in 0..2 {
        let two = b"GET /a HTTP/1.1\r\nHost: web.ns\r\n\r\nGET /b HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n";
        let answers = raw(at, two).await.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1, "{answers}");
        assert_eq!(answers.matches("HTTP/1.1 429 ").count(), 1, "{answers}");
    }
}

#[tokio::test]
async fn headers_and_parameters_are_mutated_by_the_filter_and_by_all_levels() {
    use rules::header_mutation::Action;
    let append = |name: &str, value: &str, mode| rules::HeaderMutation {
        action: Some(Action::Append(add(name, value, mode))),
    };
    let remove = |name: &str| rules::HeaderMutation {
        action: Some(Action::Remove(name.into())),
    };
    let on_match = rules::HeaderMutation {
        action: Some(Action::RemoveOnMatch(
            rules::header_mutation::RemoveOnMatch {
                key_matcher: Some(exact("x-matched")),
            },
        )),
    };
    let parameter = |key: &str, value: &str, action| core::KeyValueMutation {
        append: Some(core::KeyValueAppend {
            record: Some(core::KeyValuePair {
                key: key.into(),
                value: Some(Value {
                    kind: Some(ValueKind::StringValue(value.into())),
                }),
            }),
            action,
            ..Default::default()
        }),
        ..Default::default()
    };
    let filter = mutation::HeaderMutation {
        mutations: Some(mutation::Mutations {
            request_mutations: vec![
                remove("x-gone"),
                append("x-1", "filter", 0),
                append("x-set", "%REQ(x-in)%", 2),
                append("x-empty", "%REQ(x-none)%", 0),
                on_match,
            ],
            query_parameter_mutations: vec![
                parameter("a", "1", 0),
                parameter("b", "%REQ(x-in)% x", 2),
                core::KeyValueMutation {
                    remove: "c".into(),
                    ..Default::default()
                },
            ],
            response_mutations: vec![
                append("x-answer", "%REQ(x-in)%/%RESPONSE_CODE%", 0),
                remove("x-app"),
            ],
            ..Default::default()
        }),
        ..Default::default()
    };
    let of_level = |name: &str| {
        any(&mutation::HeaderMutationPerRoute {
            mutations: Some(mutation::Mutations {
                request_mutations: vec![append("x-1", name, 0)],
                response_mutations: vec![append("x-level", name, 0)],
                ..Default::default()
            }),
        })
    };
    let (_proxy, at) = front(vec![("hm", any(&filter))], &["/get"], |host| {
        host.typed_per_filter_config
            .insert("hm".into(), of_level("host"));
        host.routes[0]
            .typed_per_filter_config
            .insert("hm".into(), of_level("route"));
    })
    .await;
    let more = "x-gone: 1\r\nx-in: IN\r\nx-set: old\r\nx-matched: 1\r\n";
    let answer = get(at, "/get?c=1&b=7&a=0&d", more).await;
    assert_eq!(header(&answer, "x-1"), ["filter", "route", "host"]);
    assert_eq!(header(&answer, "x-set"), ["IN"]);
    for absent in ["x-gone", "x-empty", "x-matched"] {
        assert!(header(&answer, absent).is_empty(), "{absent}: {answer}");
    }
    assert_eq!(header(&answer, "x-answer"), ["IN/200"]);
    assert_eq!(header(&answer, "x-level"), ["route", "host"]);
    // Mutations of responses do not depend on the route's cluster: a refusal has them, too.
    let missing = get(at, "/other", "").await;
    assert_eq!(status(&missing), "404");
    assert_eq!(header(&missing, "x-answer"), ["/404"], "{missing}");
}

#[tokio::test]
async fn preflights_are_answered_and_origins_told() {
    let policy = cors::CorsPolicy {
        allow_origin_string_match: vec![exact("http://ok")],
        allow_methods: "GET,PUT".into(),
        allow_credentials: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let name = "envoy.filters.http.cors";
    let (proxy, at) = front(
        vec![(name, any(&cors::Cors::default()))],
        &["/typed", "/old", "/none"],
        |host| {
            host.response_headers_to_add = vec![add("x-host", "1", 0)];
            host.routes[0]
                .typed_per_filter_config
                .insert(name.into(), any(&policy));
            #[allow(deprecated)]
            {
                action(&mut host.routes[1]).cors = Some(route::CorsPolicy {
                    allow_origin_string_match: vec![exact("http://old")],
                    max_age: "5".into(),
                    ..Default::default()
                });
            }
        },
    )
    .await;
    let preflight = |path: &str, origin: &str| {
        format!(
            "OPTIONS {path} HTTP/1.1\r\nHost: web.ns\r\nOrigin: {origin}\r\nConnection: close\r\n\
             Access-Control-Request-Method: PUT\r\n\r\n"
        )
    };
    let allowed = raw(at, preflight("/typed", "http://ok").as_bytes())
        .await
        .unwrap();
    assert_eq!(status(&allowed), "200", "{allowed}");
    assert_eq!(
        header(&allowed, "access-control-allow-origin"),
        ["http://ok"]
    );
    assert_eq!(
        header(&allowed, "access-control-allow-methods"),
        ["GET,PUT"]
    );
    assert!(
        !allowed.contains("OPTIONS /typed"),
        "not forwarded: {allowed}"
    );
    assert!(header(&allowed, "x-host").is_empty(), "{allowed}");
    let other = raw(at, preflight("/typed", "http://bad").as_bytes())
        .await
        .unwrap();
    assert!(other.contains("OPTIONS /typed"), "forwarded: {other}");
    assert!(header(&other, "access-control-allow-origin").is_empty());
    let old = raw(at, preflight("/old", "http://old").as_bytes())
        .await
        .unwrap();
    assert_eq!(header(&old, "access-control-max-age"), ["5"], "{old}");
    let actual = get(at, "/typed", "Origin: http://ok\r\n").await;
    assert_eq!(
        header(&actual, "access-control-allow-origin"),
        ["http://ok"]
    );
    assert_eq!(
        header(&actual, "access-control-allow-credentials"),
        ["true"]
    );
    let none = get(at, "/none", "Origin: http://ok\r\n").await;
    assert!(header(&none, "access-control-allow-origin").is_empty());
    let stats = proxy.stats();
    assert!(stats.contains("http.test.cors.origin_valid: 3"), "{stats}");
    assert!(
        stats.contains("http.test.cors.origin_invalid: 1"),
        "{stats}"
    );
}

#[tokio::test]
async fn faults_delay_and_abort() {
    let by_header = fault::HttpFault {
        delay: Some(faults::FaultDelay {
            fault_delay_secifier: Some(faults::fault_delay::FaultDelaySecifier::HeaderDelay(
                faults::fault_delay::HeaderDelay {},
            )),
            percentage: Some(percent(100)),
        }),
        abort: Some(fault::FaultAbort {
            error_type: Some(fault::fault_abort::ErrorType::HeaderAbort(
                fault::fault_abort::HeaderAbort {},
            )),
            percentage: Some(percent(100)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let always = fault::HttpFault {
        abort: Some(fault::FaultAbort {
            error_type: Some(fault::fault_abort::ErrorType::GrpcStatus(9)),
            percentage: Some(percent(100)),
            ..Default::default()
        }),
        upstream_cluster: "app".into(),
        ..Default::default()
    };
    let elsewhere = fault::HttpFault {
        upstream_cluster: "other".into(),
        ..always.clone()
    };
    let (proxy, at) = front(
        vec![("fault", any(&by_header))],
        &["/always", "/elsewhere", ".*"],
        |host| {
            for (index, config) in [always, elsewhere].iter().enumerate() {
                let config = any(config);
                host.routes[index]
                    .typed_per_filter_config
                    .insert("fault".into(), config);
            }
        },
    )
    .await;
    let delayed = get(
        at,
        "/get",
        "x-envoy-fault-delay-request: 20\r\nx-envoy-fault-abort-request: 418\r\n",
    )
    .await;
    assert_eq!(status(&delayed), "418", "{delayed}");
    assert!(delayed.ends_with("\r\n\r\nfault filter abort"), "{delayed}");
    let grpc = get(at, "/always", "content-type: application/grpc\r\n").await;
    assert_eq!(header(&grpc, "grpc-status"), ["9"], "{grpc}");
    assert_eq!(status(&get(at, "/elsewhere", "").await), "200");
    assert_eq!(status(&get(at, "/get", "").await), "200");
    let stats = proxy.stats();
    for line in [
        "http.test.fault.aborts_injected: 2",
        "http.test.fault.delays_injected: 1",
    ] {
        assert!(stats.contains(line), "{line}\n{stats}");
    }
    eventually("no fault is active", async || {
        proxy.stats().contains("http.test.fault.active_faults: 0")
    })
    .await;
}

#[tokio::test]
async fn health_checks_are_answered_by_the_health_of_clusters() {
    let check = |path: &str, cluster: &str| {
        any(&health::HealthCheck {
            pass_through_mode: Some(BoolValue { value: false }),
            headers: vec![route::HeaderMatcher {
                name: ":path".into(),
                header_match_specifier: Some(
                    route::header_matcher::HeaderMatchSpecifier::StringMatch(exact(path)),
                ),
                ..Default::default()
            }],
            cluster_min_healthy_percentages: [(cluster.into(), kinds::Percent { value: 50.0 })]
                .into(),
            ..Default::default()
        })
    };
    let filters = vec![
        ("one", check("/healthy", "app")),
        ("two", check("/sick", "nowhere")),
    ];
    let (proxy, at) = front(filters, &["/get"], |_| ()).await;
    proxy.shared.service_cluster.set("me".into()).unwrap();
    let healthy = get(at, "/healthy", "").await;
    assert_eq!(status(&healthy), "200", "{healthy}");
    let told = header(&healthy, "x-envoy-upstream-healthchecked-cluster");
    assert_eq!(told, ["me"]);
    assert_eq!(status(&get(at, "/sick", "").await), "503");
    assert_eq!(status(&get(at, "/get", "").await), "200");
    proxy.shared.fail_health(true);
    let failed = get(at, "/healthy", "").await;
    assert_eq!(status(&failed), "503", "{failed}");
    let other = get(at, "/get", "").await;
    assert_eq!(status(&other), "200", "{other}");
    assert_eq!(
        header(&other, "x-envoy-immediate-health-check-fail"),
        ["true"]
    );
}

#[tokio::test]
async fn buffered_requests_arrive_whole_and_with_their_length() {
    let limit = |value| buffer::Buffer {
        max_request_bytes: Some(UInt32Value { value }),
    };
    let (_proxy, at) = front(
        vec![("buffer", any(&limit(5)))],
        &["/more", "/.*"],
        |host| {
            let more = buffer::BufferPerRoute {
                r#override: Some(buffer::buffer_per_route::Override::Buffer(limit(6))),
            };
            host.routes[0]
                .typed_per_filter_config
                .insert("buffer".into(), any(&more));
        },
    )
    .await;
    let chunked = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
        )
    };
    let large = raw(at, chunked("/x").as_bytes()).await.unwrap();
    assert_eq!(status(&large), "413", "{large}");
    assert!(large.ends_with("Payload Too Large"), "{large}");
    let whole = raw(at, chunked("/more").as_bytes()).await.unwrap();
    assert_eq!(status(&whole), "200", "{whole}");
    assert!(whole.contains("content-length: 6\n"), "{whole}");
    assert!(whole.contains("body: 6\n"), "{whole}");
}
