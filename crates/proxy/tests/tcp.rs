//! Opaque connections through the pair: what one end does, the other end sees, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3 as listener_pb;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use socket2::SockRef;
use support::{
    Authority, Http, Proxy, any, listener, mesh_cluster, static_cluster, tcp_chain, with_mtls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use xds::client::Kind;

const SERVER: &str = "spiffe://cluster.local/server/ns";
/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client's and a server's sidecar, and the application's listening socket.
struct Pair {
    _client: Proxy,
    _server: Proxy,
    application: TcpListener,
    front: SocketAddr,
}

async fn pair(change: impl FnOnce(&mut TcpProxy)) -> Pair {
    let ca = Authority::new();
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = application.local_addr().unwrap();
    let mut server = Proxy::new(Some(ca.leaf("server")));
    let local = any(&static_cluster("local", &[address], Http::One));
    server.push(Kind::Cluster, vec![("local", local)], &[]);
    let chain = with_mtls(tcp_chain("local"), &ca);
    let inbound = any(&listener("inbound", vec![chain], true));
    server.push(Kind::Listener, vec![("inbound", inbound)], &[]);

    let mut client = Proxy::new(Some(ca.leaf("client")));
    let mesh = mesh_cluster("mesh", server.address("inbound"), Http::One, &ca, &[SERVER]);
    client.push(Kind::Cluster, vec![("mesh", any(&mesh))], &[]);
    let outbound = any(&listener("outbound", vec![chain_to("mesh", change)], false));
    client.push(Kind::Listener, vec![("outbound", outbound)], &[]);
    Pair {
        front: client.address("outbound"),
        _client: client,
        _server: server,
        application,
    }
}

fn chain_to(cluster: &str, change: impl FnOnce(&mut TcpProxy)) -> listener_pb::FilterChain {
    let mut proxy = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    change(&mut proxy);
    let mut chain = tcp_chain(cluster);
    chain.filters[0].config_type = Some(listener_pb::filter::ConfigType::TypedConfig(any(&proxy)));
    chain
}

impl Pair {
    /// A client's connection and the application's end of it.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.front).await.unwrap();
        let accepted = timeout(PATIENCE, self.application.accept()).await;
        (client, accepted.unwrap().unwrap().0)
    }
}

async fn reads(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    let read = timeout(PATIENCE, stream.read_exact(&mut bytes)).await;
    read.unwrap().unwrap();
    assert_eq!(bytes, expected);
}

/// What the stream ends with.
async fn end(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    read.expect("the connection stays open")
        .map_err(|error| error.kind())
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_by_a_silent_client() {
    let pair = pair(|_| {}).await;
    let (mut client, mut server) = pair.connect().await;
    server.write_all(b"220 ready\r\n").await.unwrap();
    reads(&mut client, b"220 ready\r\n").await;
}

#[tokio::test]
async fn each_end_may_close_its_direction_and_still_hear_the_other() {
    let pair = pair(|_| {}).await;
    let (mut client, mut server) = pair.connect().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    reads(&mut server, b"question").await;
    assert_eq!(end(&mut server).await, Ok(0));
    server.write_all(b"late answer").await.unwrap();
    server.shutdown().await.unwrap();
    reads(&mut client, b"late answer").await;
    assert_eq!(end(&mut client).await, Ok(0));

    let (mut client, mut server) = pair.connect().await;
    server.shutdown().await.unwrap();
    assert_eq!(end(&mut client).await, Ok(0));
    client.write_all(b"still here").await.unwrap();
    reads(&mut server, b"still here").await;
}

#[tokio::test]
async fn a_reset_at_one_end_is_a_reset_at_the_other() {
    let pair = pair(|_| {}).await;
    let (mut client, mut server) = pair.connect().await;
    client.write_all(b"x").await.unwrap();
    reads(&mut server, b"x").await;
    reset(client);
    assert_eq!(end(&mut server).await, Err(ErrorKind::ConnectionReset));

    let (mut client, mut server) = pair.connect().await;
    server.write_all(b"half of the ans").await.unwrap();
    reads(&mut client, b"half of the ans").await;
    reset(server);
    assert_eq!(end(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_application_that_is_not_there_is_a_reset() {
    let pair = pair(|_| {}).await;
    let front = pair.front;
    drop(pair.application);
    let mut client = TcpStream::connect(front).await.unwrap();
    assert_eq!(end(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reader_that_pauses_holds_the_writer_back_and_loses_nothing() {
    let pair = pair(|_| {}).await;
    let (mut client, mut server) = pair.connect().await;
    // Far more than all buffers on the way hold.
    const TOTAL: usize = 64 << 20;
    let chunk: Vec<u8> = (0u32..1 << 16).map(|n| (n % 249) as u8).collect();
    let mut sent = 0;
    // Until the writer finds no room for a while, the reader reads nothing.
    let pause = Duration::from_millis(200);
    while let Ok(written) = timeout(pause, client.write(&chunk[sent % chunk.len()..])).await {
        sent += written.unwrap();
        assert!(sent < TOTAL, "nothing holds the writer back");
    }
    let all = sent + TOTAL;
    let writing = async {
        while sent < all {
            let from = sent % chunk.len();
            let most = (chunk.len() - from).min(all - sent);
            sent += client.write(&chunk[from..from + most]).await.unwrap();
        }
        client.shutdown().await.unwrap();
    };
    let reading = async {
        let (mut read, mut bytes) = (0usize, vec![0; 1 << 16]);
        loop {
            let length = server.read(&mut bytes).await.unwrap();
            if length == 0 {
                return read;
            }
            for (offset, byte) in bytes[..length].iter().enumerate() {
                assert_eq!(*byte, chunk[(read + offset) % chunk.len()]);
            }
            read += length;
        }
    };
    let ((), read) = timeout(PATIENCE, async { tokio::join!(writing, reading) })
        .await
        .unwrap();
    assert_eq!(read, all);
}

#[tokio::test]
async fn silence_ends_a_connection_at_both_ends() {
    let idle = PbDuration {
        seconds: 0,
        nanos: 50_000_000,
    };
    let pair = pair(|proxy| proxy.idle_timeout = Some(idle)).await;
    let (mut client, mut server) = pair.connect().await;
    assert_eq!(end(&mut client).await, Ok(0));
    assert!(end(&mut server).await.is_ok_and(|rest| rest == 0));
}

#[tokio::test]
async fn a_connection_lives_no_longer_than_it_may_however_busy() {
    let longest = PbDuration {
        seconds: 0,
        nanos: 200_000_000,
    };
    let pair = pair(|proxy| proxy.max_downstream_connection_duration = Some(longest)).await;
    let (mut client, mut server) = pair.connect().await;
    let echoing = async {
        let mut bytes = [0; 64];
        while client.write_all(b"x").await.is_ok() {
            match server.read(&mut bytes).await {
                Ok(1..) => {}
                _ => return,
            }
        }
    };
    timeout(PATIENCE, echoing)
        .await
        .expect("the connection outlives its limit");
}

#[tokio::test]
async fn weights_decide_where_connections_go_and_zero_is_never() {
    let (one, other) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let mut proxy = Proxy::new(None);
    let cluster = |name: &str, at: &TcpListener| {
        any(&static_cluster(
            name,
            &[at.local_addr().unwrap()],
            Http::One,
        ))
    };
    let clusters = vec![
        ("one", cluster("one", &one)),
        ("other", cluster("other", &other)),
    ];
    proxy.push(Kind::Cluster, clusters, &[]);
    let weight = |name: &str, weight| tcp_proxy::weighted_cluster::ClusterWeight {
        name: name.into(),
        weight,
        metadata_match: None,
    };
    let mut send = |weights: [u32; 2]| {
        let clusters = vec![weight("one", weights[0]), weight("other", weights[1])];
        let chain = chain_to("one", |proxy| {
            proxy.cluster_specifier = Some(tcp_proxy::ClusterSpecifier::WeightedClusters(
                tcp_proxy::WeightedCluster { clusters },
            ));
        });
        let changed = any(&listener("front", vec![chain], false));
        proxy.push(Kind::Listener, vec![("front", changed)], &[]);
        proxy.address("front")
    };
    for (weights, share) in [([1, 0], 60..=60), ([0, 1], 0..=0), ([1, 1], 10..=50)] {
        let front = send(weights);
        let mut ones = 0;
        for _ in 0..60 {
            let _client = TcpStream::connect(front).await.unwrap();
            let accepted = async {
                tokio::select! {
                    _ = one.accept() => 1,
                    _ = other.accept() => 0,
                }
            };
            ones += timeout(PATIENCE, accepted).await.unwrap();
        }
        assert!(share.contains(&ones), "{weights:?}: {ones} of 60");
    }
}
