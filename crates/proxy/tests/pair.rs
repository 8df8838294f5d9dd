//! Two proxies with mutual TLS between them, an application behind, real clients in front.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{Metadata, TrafficDirection};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use support::peers::{application, echo, get, get2, raw};
use support::{
    Authority, Http, Proxy, allow, any, eventually, filtered_chain, http_chain, listener,
    mesh_cluster, routes, static_cluster, tcp_chain, with_mtls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xds::client::{Any, Kind};

const CLIENT: &str = "spiffe://cluster.local/client/ns";
const SERVER: &str = "spiffe://cluster.local/server/ns";

/// The pair of a client's and a server's sidecar; the mesh hop speaks `hop`.
struct Pair {
    client: Proxy,
    server: Proxy,
    front: SocketAddr,
}

fn pair(ca: &Authority, app: SocketAddr, hop: Http, allowed: &str, expected: &str) -> Pair {
    let mut server = Proxy::new(Some(ca.leaf("server")));
    server.push(
        Kind::Cluster,
        vec![("local", any(&static_cluster("local", &[app], Http::One)))],
        &[],
    );
    let chain = with_mtls(
        http_chain("in", Some(allow(allowed, "/(get|trailers|ws)"))),
        ca,
    );
    server.push(
        Kind::Listener,
        vec![("inbound", any(&listener("inbound", vec![chain], true)))],
        &[],
    );
    server.push(
        Kind::Routes,
        vec![("in", any(&routes("in", vec![(".*", "local")])))],
        &[],
    );

    let mut client = Proxy::new(Some(ca.leaf("client")));
    let mesh = mesh_cluster("mesh", server.address("inbound"), hop, ca, &[expected]);
    client.push(Kind::Cluster, vec![("mesh", any(&mesh))], &[]);
    let outbound = listener("outbound", vec![http_chain("out", None)], false);
    client.push(Kind::Listener, vec![("outbound", any(&outbound))], &[]);
    client.push(
        Kind::Routes,
        vec![("out", any(&routes("out", vec![("/[a-z]*", "mesh")])))],
        &[],
    );
    let front = client.address("outbound");
    Pair {
        client,
        server,
        front,
    }
}

#[tokio::test]
async fn a_request_crosses_the_pair_and_policies_hold() {
    let ca = Authority::new();
    let pair = pair(&ca, application().await, Http::Two, CLIENT, SERVER);
    let answer = get(
        pair.front,
        "/get?x=1",
        "X-Forwarded-Client-Cert: URI=spiffe://evil\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("GET /get HTTP/1.1\n") && answer.contains("host: web.ns\n"),
        "{answer}"
    );
    assert!(
        answer.contains("server: envoy\r\n") && answer.contains("x-envoy-upstream-service-time: "),
        "{answer}"
    );
    assert!(
        answer.contains("x-request-id: ") && answer.contains("x-forwarded-proto: http\n"),
        "{answer}"
    );
    assert!(!answer.contains("evil"), "{answer}");

    let denied = get(pair.front, "/admin", "").await;
    assert!(denied.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{denied}");
    assert!(denied.ends_with("\r\n\r\nRBAC: access denied"), "{denied}");
    let missing = get(pair.front, "/UPPER", "").await;
    assert!(
        missing.starts_with("HTTP/1.1 404 Not Found\r\n"),
        "{missing}"
    );
    let host = raw(
        pair.front,
        b"GET /get HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(host.starts_with("HTTP/1.1 404"), "{host}");
    // What leads to a forbidden path is judged as that path.
    let dots = get(pair.front, "/get/../admin", "").await;
    assert!(dots.starts_with("HTTP/1.1 403"), "{dots}");
}

#[tokio::test]
async fn another_identity_is_refused_by_either_end() {
    let ca = Authority::new();
    let app = application().await;
    let not_allowed = pair(
        &ca,
        app,
        Http::One,
        "spiffe://cluster.local/somebody/ns",
        SERVER,
    );
    let answer = get(not_allowed.front, "/get", "").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let not_expected = pair(
        &ca,
        app,
        Http::One,
        CLIENT,
        "spiffe://cluster.local/somebody/ns",
    );
    let answer = get(not_expected.front, "/get", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("remote connection failure"),
        "{answer}"
    );
}

/// A table whose metadata lets refusals be explained.
fn telling(name: &str, list: Vec<(&str, &str)>) -> Any {
    let yes = Value {
        kind: Some(ValueKind::BoolValue(true)),
    };
    let ours = Struct {
        fields: [("reason_header".to_owned(), yes)].into(),
    };
    any(&RouteConfiguration {
        metadata: Some(Metadata {
            filter_metadata: [("osm".to_owned(), ours)].into(),
            ..Default::default()
        }),
        ..routes(name, list)
    })
}

#[tokio::test]
async fn refusals_are_explained_to_members_of_the_mesh_who_ask() {
    let ca = Authority::new();
    let mut pair = pair(&ca, application().await, Http::One, CLIENT, SERVER);
    let ask = "X-OSM-Debug: 1\r\n";
    let explained = |answer: &str| answer.contains("\nx-osm-reason");
    let silent = get(pair.front, "/admin", ask).await;
    assert!(
        silent.starts_with("HTTP/1.1 403") && !explained(&silent),
        "{silent}"
    );

    // The same routes for callers without a certificate, as behind an ingress.
    let mut strangers = filtered_chain("in", Vec::new());
    strangers.name = "strangers".into();
    let mut outbound = listener("outbound", vec![http_chain("out", None)], false);
    outbound.traffic_direction = TrafficDirection::Outbound.into();
    let plain = listener("plain", vec![strangers], false);
    pair.server
        .push(Kind::Listener, vec![("plain", any(&plain))], &[]);
    let table = telling("in", vec![("/(get|admin)", "local")]);
    pair.server.push(Kind::Routes, vec![("in", table)], &[]);
    pair.client
        .push(Kind::Listener, vec![("outbound", any(&outbound))], &[]);
    let table = telling("out", vec![("/[a-z]*", "mesh")]);
    pair.client.push(Kind::Routes, vec![("out", table)], &[]);
    let (front, plain) = (
        pair.client.address("outbound"),
        pair.server.address("plain"),
    );

    let denied = get(front, "/admin", ask).await;
    for line in [
        "x-osm-reason: Denied",
        "x-osm-blame: policy",
        "x-osm-denied-by: http",
    ] {
        assert!(
            denied.contains(&format!("\n{line}\r\n")),
            "{line}: {denied}"
        );
    }
    let missing = get(front, "/UPPER", ask).await;
    assert!(
        missing.contains("\nx-osm-reason: RouteNotFound\r\n"),
        "{missing}"
    );
    assert!(!explained(&get(front, "/admin", "").await), "nobody asked");
    assert!(
        !explained(&get(front, "/get", ask).await),
        "nothing was refused"
    );
    let stranger = get(plain, "/none", ask).await;
    assert!(
        stranger.starts_with("HTTP/1.1 404") && !explained(&stranger),
        "{stranger}"
    );
    // Nor does anybody behind hear of the wish, who might answer it for the stranger.
    let passed = get(plain, "/get", ask).await;
    assert!(
        passed.starts_with("HTTP/1.1 200") && !passed.contains("x-osm-debug"),
        "{passed}"
    );
}

#[tokio::test]
async fn plain_text_and_strangers_are_closed() {
    let (ca, other) = (Authority::new(), Authority::new());
    let pair = pair(&ca, application().await, Http::One, CLIENT, SERVER);
    let inbound = pair.server.address("inbound");
    let plain = raw(
        inbound,
        b"GET /get HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        plain.is_err() || plain.unwrap().is_empty(),
        "no chain takes plain text"
    );
    // A client with a certificate of another authority.
    let mut stranger = Proxy::new(Some(other.leaf("client")));
    let mesh = mesh_cluster("mesh", inbound, Http::One, &ca, &[SERVER]);
    stranger.push(Kind::Cluster, vec![("mesh", any(&mesh))], &[]);
    stranger.push(
        Kind::Listener,
        vec![("l", any(&listener("l", vec![http_chain("r", None)], false)))],
        &[],
    );
    stranger.push(
        Kind::Routes,
        vec![("r", any(&routes("r", vec![(".*", "mesh")])))],
        &[],
    );
    let answer = get(stranger.address("l"), "/get", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[tokio::test]
async fn http2_keeps_its_trailers_and_grpc_is_told_in_grpc() {
    let ca = Authority::new();
    for hop in [Http::Two, Http::Downstream] {
        let pair = pair(&ca, application().await, hop, CLIENT, SERVER);
        let (status, body, trailers) = get2(pair.front, "/trailers").await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
        let (status, _, _) = get2(pair.front, "/admin").await;
        assert_eq!(status, 403);
    }
    let pair = pair(&ca, application().await, Http::Two, CLIENT, SERVER);
    let refused = get(pair.front, "/admin", "Content-Type: application/grpc\r\n").await;
    assert!(
        refused.starts_with("HTTP/1.1 200") && refused.contains("grpc-status: 7\r\n"),
        "{refused}"
    );
}

#[tokio::test]
async fn websockets_cross_both_kinds_of_hop() {
    let ca = Authority::new();
    for hop in [Http::One, Http::Two] {
        let pair = pair(&ca, application().await, hop, CLIENT, SERVER);
        let mut stream = TcpStream::connect(pair.front).await.unwrap();
        let request = "GET /ws HTTP/1.1\r\nHost: web.ns\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(
            head.contains("upgrade: websocket") && head.contains("sec-websocket-accept: key"),
            "{head}"
        );
        stream.write_all(b"hello").await.unwrap();
        let mut echoed = [0u8; 5];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"hello");
    }
}

#[tokio::test]
async fn large_bodies_head_and_keep_alive_pass() {
    let ca = Authority::new();
    let pair = pair(&ca, application().await, Http::Downstream, CLIENT, SERVER);
    let mut request = b"POST /get HTTP/1.1\r\nHost: web.ns\r\nContent-Length: 3000000\r\nExpect: 100-continue\r\n\r\n".to_vec();
    request.extend(vec![b'x'; 3_000_000]);
    request.extend(b"HEAD /get HTTP/1.1\r\nHost: web.ns\r\nConnection: close\r\n\r\n");
    let answer = raw(pair.front, &request).await.unwrap();
    assert!(answer.contains("body: 3000000\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    let smuggled = "GET /get HTTP/1.1\r\nHost: web.ns\r\nHost: x\r\n\r\n";
    let answer = raw(pair.front, smuggled.as_bytes())
        .await
        .unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn tcp_passes_with_half_close_and_a_removed_listener_refuses() {
    let mut proxy = Proxy::new(None);
    proxy.push(
        Kind::Cluster,
        vec![("c", any(&static_cluster("c", &[echo().await], Http::One)))],
        &[],
    );
    proxy.push(
        Kind::Listener,
        vec![("l", any(&listener("l", vec![tcp_chain("c")], false)))],
        &[],
    );
    let front = proxy.address("l");
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "hello bye");

    let mut kept = TcpStream::connect(front).await.unwrap();
    kept.write_all(b"kept").await.unwrap();
    eventually("the connection is accepted", async || {
        proxy.shared.connections() > 0
    })
    .await;
    proxy.push(Kind::Listener, vec![], &["l"]);
    eventually("the port is closed", async || {
        TcpStream::connect(front).await.is_err()
    })
    .await;
    kept.shutdown().await.unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "kept bye", "a connection outlives its listener");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told() {
    let mut proxy = Proxy::new(None);
    let nobody: SocketAddr = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let clusters = vec![
        ("dead", any(&static_cluster("dead", &[nobody], Http::One))),
        ("empty", any(&static_cluster("empty", &[], Http::One))),
    ];
    proxy.push(Kind::Cluster, clusters, &[]);
    proxy.push(
        Kind::Listener,
        vec![("l", any(&listener("l", vec![http_chain("r", None)], false)))],
        &[],
    );
    let table = routes(
        "r",
        vec![
            ("/dead", "dead"),
            ("/empty", "empty"),
            ("/unknown", "unknown"),
        ],
    );
    proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
    let front = proxy.address("l");
    let dead = get(front, "/dead", "").await;
    assert!(
        dead.starts_with("HTTP/1.1 503") && dead.contains("remote connection failure"),
        "{dead}"
    );
    let empty = get(front, "/empty", "").await;
    assert!(
        empty.starts_with("HTTP/1.1 503") && empty.ends_with("no healthy upstream"),
        "{empty}"
    );
    let unknown = get(front, "/unknown", "").await;
    assert!(unknown.starts_with("HTTP/1.1 503"), "{unknown}");
    // Routes change under a living connection.
    let mut kept = TcpStream::connect(front).await.unwrap();
    let request = b"GET /gone HTTP/1.1\r\nHost: web.ns\r\n\r\n";
    for expected in ["HTTP/1.1 404", "HTTP/1.1 503"] {
        kept.write_all(request).await.unwrap();
        let mut buffer = vec![0u8; 4096];
        let length = kept.read(&mut buffer).await.unwrap();
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(answer.starts_with(expected), "{answer}");
        proxy.push(
            Kind::Routes,
            vec![("r", any(&routes("r", vec![("/gone", "empty")])))],
            &[],
        );
    }
}

#[tokio::test]
async fn a_changed_chain_drains_its_connections() {
    let ca = Authority::new();
    let mut pair = pair(&ca, application().await, Http::One, CLIENT, SERVER);
    let mut kept = TcpStream::connect(pair.front).await.unwrap();
    kept.write_all(b"GET /get HTTP/1.1\r\nHost: web.ns\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = vec![0u8; 4096];
    assert!(kept.read(&mut buffer).await.unwrap() > 0);
    let mut chain = http_chain("out", None);
    chain.name = "another".into();
    pair.client.push(
        Kind::Listener,
        vec![("outbound", any(&listener("outbound", vec![chain], false)))],
        &[],
    );
    // The idle connection is closed in order.
    assert_eq!(kept.read(&mut buffer).await.unwrap(), 0);
    assert!(
        get(pair.front, "/get", "")
            .await
            .starts_with("HTTP/1.1 200")
    );
}
