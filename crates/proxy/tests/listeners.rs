//! Listeners as the configuration changes, and what comes before the filter chain.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xds::client::Kind;

/// Greets with its name, then repeats what it hears.
async fn echo(name: &'static str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(name.as_bytes()).await;
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn hear(stream: &mut TcpStream, bytes: usize) -> String {
    let mut heard = vec![0; bytes];
    stream.read_exact(&mut heard).await.unwrap();
    String::from_utf8(heard).unwrap()
}

fn cluster(name: &'static str, at: SocketAddr) -> (&'static str, xds::client::Any) {
    (name, any(&static_cluster(name, &[at], Http::One)))
}

fn chain(name: &str, cluster: &str, source: Option<&str>) -> listener::FilterChain {
    let range = source.map(|address| core::CidrRange {
        address_prefix: address.to_owned(),
        prefix_len: Some(UInt32Value { value: 32 }),
    });
    listener::FilterChain {
        name: name.into(),
        filter_chain_match: Some(listener::FilterChainMatch {
            source_prefix_ranges: range.into_iter().collect(),
            ..Default::default()
        }),
        ..tcp_chain(cluster)
    }
}

#[tokio::test]
async fn the_proxy_protocol_tells_the_source_that_chains_match() {
    let mut proxy = Proxy::new(None);
    let clusters = vec![
        cluster("far", echo("far!").await),
        cluster("near", echo("near").await),
    ];
    proxy.push(Kind::Cluster, clusters, &[]);
    let mut wanted = listener(
        "l",
        vec![
            chain("far", "far", Some("203.0.113.7")),
            chain("near", "near", None),
        ],
        false,
    );
    wanted.listener_filters = vec![listener::ListenerFilter {
        name: "proxy".into(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            &ProxyProtocol::default(),
        ))),
        ..Default::default()
    }];
    proxy.push(Kind::Listener, vec![("l", any(&wanted))], &[]);
    for (source, name) in [("203.0.113.7", "far!"), ("203.0.113.8", "near")] {
        let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
        let header = format!("PROXY TCP4 {source} 198.51.100.1 4711 443\r\nafter");
        // In two pieces: the header may come in any number.
        let (first, second) = header.split_at(10);
        stream.write_all(first.as_bytes()).await.unwrap();
        stream.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(hear(&mut stream, 9).await, format!("{name}after"));
    }
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "without a header nobody is served");
}

#[tokio::test]
async fn a_changed_listener_keeps_its_sockets_and_the_connections_of_unchanged_chains() {
    let mut proxy = Proxy::new(None);
    let clusters = vec![
        cluster("one", echo("one").await),
        cluster("two", echo("two").await),
    ];
    proxy.push(Kind::Cluster, clusters, &[]);
    let first = listener("l", vec![chain("all", "one", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&first))], &[]);
    let at = proxy.address("l");
    let mut open = TcpStream::connect(at).await.unwrap();
    assert_eq!(hear(&mut open, 3).await, "one");

    // Another chain beside it, and another address.
    let mut second = listener(
        "l",
        vec![
            chain("all", "one", None),
            chain("few", "two", Some("192.0.2.1")),
        ],
        false,
    );
    second.additional_addresses = vec![listener::AdditionalAddress {
        address: Some(address("127.0.0.1:0".parse().unwrap())),
        ..Default::default()
    }];
    proxy.push(Kind::Listener, vec![("l", any(&second))], &[]);
    let bound = proxy.listeners.lock().bound()["l"].clone();
    assert_eq!(
        (bound.len(), bound[0]),
        (2, at),
        "the first socket is still the same"
    );
    let mut other = TcpStream::connect(bound[1]).await.unwrap();
    assert_eq!(hear(&mut other, 3).await, "one");

    // Another way for everybody: new connections take it, the open one lives on.
    let third = listener("l", vec![chain("all", "two", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&third))], &[]);
    assert_eq!(proxy.listeners.lock().bound()["l"], [at]);
    let mut new = TcpStream::connect(at).await.unwrap();
    assert_eq!(hear(&mut new, 3).await, "two");
    open.write_all(b"still").await.unwrap();
    assert_eq!(hear(&mut open, 5).await, "still");
    eventually("the second address is closed", async || {
        TcpStream::connect(bound[1]).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn connections_the_kernel_has_taken_are_served_when_the_socket_closes() {
    let mut proxy = Proxy::new(None);
    proxy.push(Kind::Cluster, vec![cluster("one", echo("one").await)], &[]);
    let wanted = listener("l", vec![chain("all", "one", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&wanted))], &[]);
    let at = proxy.address("l");
    // This runtime has one thread: nothing is accepted between these two lines.
    let waiting: Vec<std::net::TcpStream> = (0..20)
        .map(|_| std::net::TcpStream::connect(at).unwrap())
        .collect();
    proxy.listeners.lock().stop(|_| true);
    for stream in waiting {
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        assert_eq!(hear(&mut stream, 3).await, "one");
    }
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn a_listener_without_port_gets_no_socket_and_options_must_be_known() {
    let mut proxy = Proxy::new(None);
    proxy.push(Kind::Cluster, vec![cluster("one", echo("one").await)], &[]);
    let mut wanted = listener("l", vec![chain("all", "one", None)], false);
    wanted.bind_to_port = Some(BoolValue { value: false });
    proxy.push(Kind::Listener, vec![("l", any(&wanted))], &[]);
    assert!(proxy.listeners.lock().bound().is_empty());
    let mut wanted = listener("m", vec![chain("all", "one", None)], false);
    wanted.freebind = Some(BoolValue { value: true });
    wanted.socket_options = vec![core::SocketOption {
        level: 6,
        name: 18,
        value: Some(core::socket_option::Value::IntValue(5000)),
        ..Default::default()
    }];
    proxy.push(Kind::Listener, vec![("m", any(&wanted))], &[]);
    let mut stream = TcpStream::connect(proxy.address("m")).await.unwrap();
    assert_eq!(hear(&mut stream, 3).await, "one");
}
