//! Network filters over sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;

use envoy_types::pb::envoy::extensions::filters::network::{
    connection_limit::v3::ConnectionLimit, local_ratelimit::v3 as network,
};
use envoy_types::pb::envoy::r#type::v3 as kinds;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value, UInt64Value};
use support::peers::echo;
use support::{Proxy, any, eventually, listener, network_filter, static_cluster, tcp_chain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xds::client::{Any, Kind};

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

/// A proxy with network filters before a TCP application.
async fn tcp_front(filters: Vec<(&str, Any)>) -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::new(None);
    let app = static_cluster("echo", &[echo().await], support::Http::One);
    proxy.push(Kind::Cluster, vec![("echo", any(&app))], &[]);
    let mut chain = tcp_chain("echo");
    for (index, (name, config)) in filters.into_iter().enumerate() {
        chain.filters.insert(index, network_filter(name, config));
    }
    let front = listener("front", vec![chain], false);
    proxy.push(Kind::Listener, vec![("front", any(&front))], &[]);
    let address = proxy.address("front");
    (proxy, address)
}

/// What the echo says; nothing if the connection was refused, however that shows.
async fn says(at: SocketAddr) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(b"hi").await;
    let _ = stream.shutdown().await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn connections_take_tokens_from_a_bucket_they_may_share() {
    let config = any(&network::LocalRateLimit {
        stat_prefix: "conn".into(),
        token_bucket: bucket(2),
        share_key: "test of shared buckets".into(),
        ..Default::default()
    });
    let (one, at) = tcp_front(vec![("lr", config.clone())]).await;
    let (_two, other) = tcp_front(vec![("lr", config)]).await;
    assert_eq!(says(at).await, "hi bye");
    assert_eq!(says(other).await, "hi bye");
    assert_eq!(says(at).await, "");
    assert_eq!(says(other).await, "");
    let stats = one.stats();
    let line = "local_rate_limit.conn.rate_limited: 1";
    assert!(stats.contains(line), "{stats}");
}

#[tokio::test]
async fn no_more_connections_than_the_limit() {
    let config = ConnectionLimit {
        stat_prefix: "conn".into(),
        max_connections: Some(UInt64Value { value: 1 }),
        ..Default::default()
    };
    let (proxy, at) = tcp_front(vec![("limit", any(&config))]).await;
    let mut held = TcpStream::connect(at).await.unwrap();
    eventually("the first is counted", async || {
        let stats = proxy.stats();
        stats.contains("connection_limit.conn.active_connections: 1")
    })
    .await;
    assert_eq!(says(at).await, "");
    held.write_all(b"me").await.unwrap();
    held.shutdown().await.unwrap();
    let mut answer = String::new();
    held.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "me bye");
    drop(held);
    eventually("its place is free", async || says(at).await == "hi bye").await;
    let stats = proxy.stats();
    let limited = stats.contains("connection_limit.conn.limited_connections: 0");
    assert!(!limited, "{stats}");
}
