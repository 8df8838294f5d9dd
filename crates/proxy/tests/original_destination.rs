//! Redirected connections of both families, in a network namespace of their own. Needs root, `unshare`, `ip`, `nft`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::net::SocketAddr;
use std::process::Command;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::google::protobuf::UInt32Value;
use support::peers::{echo, raw};
use support::{Http, Proxy, any, listener, static_cluster, tcp_chain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use xds::client::Kind;

const RULES: &str = "table inet t { chain o { type nat hook output priority -100; policy accept;
    meta l4proto tcp tcp dport 9999 redirect to :15001;
}; }
";

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .expect(program);
    assert!(status.success(), "{program} {arguments:?}");
}

#[test]
fn redirected_connections_of_both_families_reach_their_chain_and_others_are_closed() {
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !is_root {
        return eprintln!("skipped: a network namespace needs root");
    }
    let this = std::env::current_exe().unwrap();
    let inner = [
        "--exact",
        "inside_the_namespace",
        "--ignored",
        "--nocapture",
    ];
    let status = Command::new("unshare")
        .arg("--net")
        .arg(this)
        .args(inner)
        .status()
        .unwrap();
    assert!(status.success());
}

fn chain(prefix: &str, length: u32, cluster: &str) -> pb::FilterChain {
    let range = core::CidrRange {
        address_prefix: prefix.into(),
        prefix_len: Some(UInt32Value { value: length }),
    };
    pb::FilterChain {
        filter_chain_match: Some(pb::FilterChainMatch {
            destination_port: Some(UInt32Value { value: 9999 }),
            prefix_ranges: vec![range],
            ..Default::default()
        }),
        ..tcp_chain(cluster)
    }
}

#[tokio::test]
#[ignore = "run by the test above, inside its namespace"]
async fn inside_the_namespace() {
    run("ip", &["link", "set", "lo", "up"]);
    for address in ["10.1.1.1/32", "10.1.1.2/32", "fd01::1/128", "fd01::2/128"] {
        run("ip", &["addr", "add", address, "dev", "lo"]);
    }
    run("nft", &[RULES]);
    let mut proxy = Proxy::new(None);
    let live = echo().await;
    proxy.push(
        Kind::Cluster,
        vec![("c", any(&static_cluster("c", &[live], Http::One)))],
        &[],
    );
    let mut outbound = listener(
        "l",
        vec![chain("10.1.1.1", 32, "c"), chain("fd01::1", 128, "c")],
        true,
    );
    let everywhere = core::SocketAddress {
        address: "::".into(),
        ipv4_compat: true,
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(15001)),
        ..Default::default()
    };
    outbound.address = Some(core::Address {
        address: Some(core::address::Address::SocketAddress(everywhere)),
    });
    outbound.listener_filters.push(pb::ListenerFilter {
        name: "original_dst".into(),
        config_type: Some(pb::listener_filter::ConfigType::TypedConfig(any(
            &OriginalDst {},
        ))),
        ..Default::default()
    });
    proxy.push(Kind::Listener, vec![("l", any(&outbound))], &[]);

    for to in ["10.1.1.1:9999", "[fd01::1]:9999"] {
        let mut stream = TcpStream::connect(to.parse::<SocketAddr>().unwrap())
            .await
            .unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello bye", "{to}");
    }
    // Another address of the same port has no chain; the proxy's own port is nobody's destination.
    for to in [
        "10.1.1.2:9999",
        "[fd01::2]:9999",
        "127.0.0.1:15001",
        "[::1]:15001",
        "10.1.1.1:15001",
    ] {
        let answer = raw(to.parse().unwrap(), b"hello\n")
            .await
            .unwrap_or_default();
        assert_eq!(answer, "", "{to}");
    }
}
