//! Clusters over real sockets: limits, health, outliers, the choice of endpoints.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use support::peers::{echo, get, raw};
use support::{
    Http, Proxy, any, eventually, http_chain, listener, routes, static_cluster, tcp_chain,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xds::client::Kind;

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn milliseconds(count: i32) -> Duration {
    Duration {
        seconds: 0,
        nanos: count * 1_000_000,
    }
}

/// A proxy with one HTTP listener, all of whose requests go to the cluster.
fn http_proxy(config: &cluster::Cluster) -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::new(None);
    proxy.push(Kind::Cluster, vec![("c", any(config))], &[]);
    let config = listener("l", vec![http_chain("r", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&config))], &[]);
    proxy.push(
        Kind::Routes,
        vec![("r", any(&routes("r", vec![("/.*", "c")])))],
        &[],
    );
    let address = proxy.address("l");
    (proxy, address)
}

fn limited(thresholds: cluster::circuit_breakers::Thresholds, at: SocketAddr) -> cluster::Cluster {
    cluster::Cluster {
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![thresholds],
            ..Default::default()
        }),
        ..static_cluster("c", &[at], Http::One)
    }
}

#[tokio::test]
async fn a_request_above_the_limit_is_refused_as_overload_and_the_next_passes() {
    // A server that holds its answer back until it is told.
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let thresholds = cluster::circuit_breakers::Thresholds {
        max_requests: number(1),
        ..Default::default()
    };
    let (proxy, at) = http_proxy(&limited(thresholds, server.local_addr().unwrap()));
    let first = tokio::spawn(async move { get(at, "/first", "").await });
    let (mut held, _) = server.accept().await.unwrap();
    let mut head = [0; 16];
    held.read_exact(&mut head).await.unwrap();

    let refused = get(at, "/second", "").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("x-envoy-overloaded: true"), "{refused}");
    assert!(refused.ends_with("reset reason: overflow"), "{refused}");

    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    held.write_all(answer).await.unwrap();
    assert!(first.await.unwrap().ends_with("ok"));
    let third = tokio::spawn(async move { get(at, "/third", "").await });
    let (mut held, _) = server.accept().await.unwrap();
    held.write_all(answer).await.unwrap();
    assert!(third.await.unwrap().ends_with("ok"));
    let snapshot = proxy.shared.snapshot.load();
    assert_eq!(snapshot.clusters["c"].stats.pending_overflow.get(), 1);
}

#[tokio::test]
async fn an_opaque_connection_above_the_limit_is_closed() {
    let thresholds = cluster::circuit_breakers::Thresholds {
        max_connections: number(1),
        ..Default::default()
    };
    let mut proxy = Proxy::new(None);
    let config = limited(thresholds, echo().await);
    proxy.push(Kind::Cluster, vec![("c", any(&config))], &[]);
    let config = listener("l", vec![tcp_chain("c")], false);
    proxy.push(Kind::Listener, vec![("l", any(&config))], &[]);
    let at = proxy.address("l");
    let snapshot = proxy.shared.snapshot.load_full();
    let stats = &snapshot.clusters["c"].stats;
    let held = TcpStream::connect(at).await.unwrap();
    eventually("the first is through", async || {
        stats.connections_active.get() == 1
    })
    .await;
    let refused = raw(at, b"").await.unwrap_or_default();
    assert_eq!((refused.as_str(), stats.connection_overflow.get()), ("", 1));
    drop(held);
    eventually("the first is gone", async || {
        stats.connections_active.get() == 0
    })
    .await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, " bye");
}

/// A server that answers every request with this status and body, and closes.
async fn answering(status: u16, body: &'static str) -> SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        return;
                    };
                    head.push(byte);
                }
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_endpoint_that_fails_is_ejected_and_comes_back() {
    let (bad, good) = (answering(500, "bad").await, answering(200, "good").await);
    let config = cluster::Cluster {
        outlier_detection: Some(cluster::OutlierDetection {
            consecutive_5xx: number(3),
            max_ejection_percent: number(50),
            base_ejection_time: Some(milliseconds(300)),
            interval: Some(milliseconds(20)),
            ..Default::default()
        }),
        ..static_cluster("c", &[bad, good], Http::One)
    };
    let (proxy, at) = http_proxy(&config);
    let mut failed = 0;
    for _ in 0..20 {
        if get(at, "/", "").await.ends_with("bad") {
            failed += 1;
        }
    }
    assert_eq!(failed, 3, "three failures in a row eject");
    let snapshot = proxy.shared.snapshot.load_full();
    let mut page = String::new();
    proxy::cluster::page(&snapshot.clusters["c"], true, &mut page);
    let flags = format!("c::{bad}::health_flags::/failed_outlier_check\n");
    assert!(page.contains(&flags), "{page}");
    eventually("it is back", async || {
        get(at, "/", "").await.ends_with("bad")
    })
    .await;
}

#[tokio::test]
async fn names_are_looked_up_and_weights_and_priorities_of_endpoints_count() {
    let (one, two) = (answering(200, "one").await, answering(200, "two").await);
    // An address is a name that needs no server to be asked.
    let mut config = static_cluster("c", &[one, two], Http::One);
    let kind = cluster::cluster::DiscoveryType::StrictDns;
    config.cluster_discovery_type = Some(cluster::cluster::ClusterDiscoveryType::Type(kind.into()));
    let endpoints = &mut config.load_assignment.as_mut().unwrap().endpoints;
    endpoints[0].lb_endpoints[1].load_balancing_weight = number(3);
    let (_proxy, at) = http_proxy(&config);
    let mut ones = 0;
    for _ in 0..40 {
        if get(at, "/", "").await.ends_with("one") {
            ones += 1;
        }
    }
    assert_eq!(ones, 10);
}

fn health_check(checker: core::health_check::HealthChecker) -> core::HealthCheck {
    core::HealthCheck {
        timeout: Some(milliseconds(900)),
        interval: Some(milliseconds(20)),
        no_traffic_interval: Some(milliseconds(20)),
        unhealthy_threshold: number(2),
        healthy_threshold: number(1),
        health_checker: Some(checker),
        ..Default::default()
    }
}

fn checked(
    checker: core::health_check::HealthChecker,
    at: &[SocketAddr],
    http: Http,
) -> cluster::Cluster {
    cluster::Cluster {
        health_checks: vec![health_check(checker)],
        ..static_cluster("c", at, http)
    }
}

fn flags(proxy: &Proxy) -> Vec<String> {
    let snapshot = proxy.shared.snapshot.load();
    let view = snapshot.clusters["c"].endpoints.load();
    view.all.iter().map(|m| m.endpoint.health_flags()).collect()
}

#[tokio::test]
async fn http_checks_tell_the_healthy_endpoint_from_the_others() {
    let (good, bad) = (answering(200, "good").await, answering(503, "bad").await);
    let closed: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let probe = core::health_check::HttpHealthCheck {
        path: "/healthz".into(),
        ..Default::default()
    };
    let checker = core::health_check::HealthChecker::HttpHealthCheck(probe);
    let mut config = checked(checker, &[good, bad, closed], Http::One);
    config.common_lb_config = Some(cluster::cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        ..Default::default()
    });
    let (proxy, at) = http_proxy(&config);
    for _ in 0..6 {
        let answer = get(at, "/", "").await;
        assert!(
            answer.ends_with("good"),
            "the first request waits for the first checks: {answer}"
        );
    }
    let failed = "/failed_active_hc";
    eventually("all are checked", async || {
        flags(&proxy) == ["healthy", failed, failed]
    })
    .await;
    // The endpoints change: the new one is checked, too.
    let other = answering(200, "other").await;
    config.load_assignment = Some(support::assignment("c", &[other, bad]));
    let mut proxy = proxy;
    proxy.push(Kind::Cluster, vec![("c", any(&config))], &[]);
    assert!(get(at, "/", "").await.ends_with("other"));
}

#[tokio::test]
async fn tcp_checks_speak_and_listen_and_an_endpoint_that_dies_is_left_out() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut stopped = stopped.clone();
            tokio::spawn(async move {
                let mut word = [0; 4];
                let answering = async {
                    while stream.read_exact(&mut word).await.is_ok() {
                        let _ = stream.write_all(b"+PONG\r\n").await;
                    }
                };
                tokio::select! { () = answering => {}, _ = stopped.changed() => {} }
            });
        }
    });
    let payload = |text: &str| core::health_check::Payload {
        payload: Some(core::health_check::payload::Payload::Text(text.into())),
    };
    let probe = core::health_check::TcpHealthCheck {
        send: Some(payload("50494e47")),
        receive: vec![payload("504f4e47")],
        ..Default::default()
    };
    let checker = core::health_check::HealthChecker::TcpHealthCheck(probe);
    let mut proxy = Proxy::new(None);
    let config = checked(checker, &[address], Http::One);
    proxy.push(Kind::Cluster, vec![("c", any(&config))], &[]);
    eventually("it is healthy", async || flags(&proxy) == ["healthy"]).await;
    serving.abort();
    stop.send_replace(true);
    eventually("it failed", async || flags(&proxy) == ["/failed_active_hc"]).await;
    let back = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = back.accept().await.unwrap();
            tokio::spawn(async move {
                let mut word = [0; 4];
                while stream.read_exact(&mut word).await.is_ok() {
                    let _ = stream.write_all(b"PONG").await;
                }
            });
        }
    });
    eventually("it is back", async || flags(&proxy) == ["healthy"]).await;
}

#[tokio::test]
async fn grpc_checks_ask_for_the_service() {
    let at = health_service().await;
    for (service, expected) in [("shop", "healthy"), ("bar", "/failed_active_hc")] {
        let probe = core::health_check::GrpcHealthCheck {
            service_name: service.into(),
            ..Default::default()
        };
        let checker = core::health_check::HealthChecker::GrpcHealthCheck(probe);
        let mut proxy = Proxy::new(None);
        proxy.push(
            Kind::Cluster,
            vec![("c", any(&checked(checker, &[at], Http::Two)))],
            &[],
        );
        eventually(service, async || flags(&proxy) == [expected]).await;
    }
}

/// `grpc.health.v1.Health`: the shop serves, nothing else does.
async fn health_service() -> SocketAddr {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let answer = async |request: hyper::Request<hyper::body::Incoming>| {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let status = if asked.ends_with(b"shop") { 1 } else { 2 };
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames: [Result<_, std::convert::Infallible>; 2] = [
            Ok(Frame::data(bytes::Bytes::from(vec![
                0, 0, 0, 0, 2, 8, status,
            ]))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures::stream::iter(frames));
        Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = server.accept().await.unwrap();
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .serve_connection(
                        hyper_util::rt::TokioIo::new(stream),
                        hyper::service::service_fn(answer),
                    ),
            );
        }
    });
    address
}

#[tokio::test]
async fn an_opaque_connection_ends_when_its_endpoint_fails_where_that_is_wanted() {
    // Accepts until it is told, and holds what it accepted.
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(server.accept().await.unwrap().0);
            if held.len() > 1000 {
                break;
            }
        }
        held
    });
    let probe = core::health_check::TcpHealthCheck::default();
    let checker = core::health_check::HealthChecker::TcpHealthCheck(probe);
    let mut config = checked(checker, &[address], Http::One);
    config.close_connections_on_host_health_failure = true;
    // Checked at another port, so that the connection itself stays whole.
    let health = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.health_checks[0].alt_port = number(health.local_addr().unwrap().port().into());
    let mut proxy = Proxy::new(None);
    proxy.push(Kind::Cluster, vec![("c", any(&config))], &[]);
    let listener = listener("l", vec![tcp_chain("c")], false);
    proxy.push(Kind::Listener, vec![("l", any(&listener))], &[]);
    eventually("it is healthy", async || flags(&proxy) == ["healthy"]).await;
    let mut client = TcpStream::connect(proxy.address("l")).await.unwrap();
    let snapshot = proxy.shared.snapshot.load_full();
    let stats = &snapshot.clusters["c"].stats;
    eventually("it is through", async || {
        stats.connections_active.get() == 1
    })
    .await;
    drop(health);
    let mut end = Vec::new();
    let _ = client.read_to_end(&mut end).await;
    assert_eq!(flags(&proxy), ["/failed_active_hc"]);
    serving.abort();
}

#[tokio::test]
async fn a_client_with_a_hash_cookie_stays_with_its_endpoint() {
    use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy;
    use envoy_types::pb::envoy::config::route::v3::{route, route_action::HashPolicy};
    let names = ["one", "two", "three", "four"];
    let mut endpoints = Vec::new();
    for name in names {
        endpoints.push(answering(200, name).await);
    }
    for policy in [
        cluster::cluster::LbPolicy::RingHash,
        cluster::cluster::LbPolicy::Maglev,
    ] {
        let mut config = static_cluster("c", &endpoints, Http::One);
        config.lb_policy = policy.into();
        let mut table = routes("r", vec![("/.*", "c")]);
        let Some(route::Action::Route(action)) = &mut table.virtual_hosts[0].routes[0].action
        else {
            panic!("a route");
        };
        action.hash_policy = vec![HashPolicy {
            policy_specifier: Some(hash_policy::PolicySpecifier::Cookie(hash_policy::Cookie {
                name: "stay".into(),
                ttl: Some(Duration::default()),
                path: "/".into(),
                ..Default::default()
            })),
            ..Default::default()
        }];
        let (mut proxy, at) = http_proxy(&config);
        proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..12 {
            let first = get(at, "/", "").await;
            let cookie = first.split("set-cookie: ").nth(1).unwrap();
            let cookie = cookie.split(';').next().unwrap().replace('"', "");
            let again = get(at, "/", &format!("cookie: {cookie}\r\n")).await;
            let body = |answer: &str| answer.rsplit("\r\n").next().unwrap().to_owned();
            assert_eq!(body(&first), body(&again), "{cookie}");
            assert!(!again.contains("set-cookie"));
            seen.insert(body(&first));
        }
        assert!(seen.len() > 1, "clients are spread: {seen:?}");
    }
}
