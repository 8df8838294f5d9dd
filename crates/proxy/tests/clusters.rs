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
use envoy_types::pb::google::protobuf::UInt32Value;
use support::peers::{echo, get, raw};
use support::{
    Http, Proxy, any, eventually, http_chain, listener, routes, static_cluster, tcp_chain,
};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use xds::client::Kind;

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
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
    tokio::io::AsyncWriteExt::write_all(&mut held, answer)
        .await
        .unwrap();
    assert!(first.await.unwrap().ends_with("ok"));
    let third = tokio::spawn(async move { get(at, "/third", "").await });
    let (mut held, _) = server.accept().await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut held, answer)
        .await
        .unwrap();
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
    tokio::io::AsyncWriteExt::shutdown(&mut stream)
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, " bye");
}
