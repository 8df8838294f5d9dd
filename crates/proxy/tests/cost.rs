//! What a request costs in allocations, and a connection at rest in memory. Alone in its process: it counts for all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::alloc::System;
use std::net::SocketAddr;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{Http, Proxy, any, http_chain, listener, routes, static_cluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use xds::client::Kind;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const REQUEST: &[u8] =
    b"GET /get?x=1 HTTP/1.1\r\nHost: web.ns\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n";

/// A server that answers every read, and allocates for connections only.
async fn backend() -> SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0u8; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    stream.write_all(ANSWER).await.unwrap();
                }
            });
        }
    });
    address
}

async fn proxy() -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::new(None);
    let cluster = static_cluster("c", &[backend().await], Http::One);
    proxy.push(Kind::Cluster, vec![("c", any(&cluster))], &[]);
    let config = listener("l", vec![http_chain("r", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&config))], &[]);
    let table = routes("r", vec![("/.*", "c")]);
    proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
    let address = proxy.address("l");
    (proxy, address)
}

async fn ask(client: &mut TcpStream, buffer: &mut [u8]) {
    client.write_all(REQUEST).await.unwrap();
    let mut length = 0;
    while !buffer[..length].ends_with(b"hello world\n") {
        length += client.read(&mut buffer[length..]).await.unwrap();
    }
}

fn held() -> isize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize + stats.bytes_reallocated
}

#[tokio::test]
async fn a_request_and_a_resting_connection_cost_little() {
    let (_proxy, address) = proxy().await;
    let mut buffer = [0u8; 4096];
    let mut client = TcpStream::connect(address).await.unwrap();
    for _ in 0..10 {
        ask(&mut client, &mut buffer).await;
    }
    const ROUNDS: usize = 100;
    let before = ALLOCATOR.stats();
    for _ in 0..ROUNDS {
        ask(&mut client, &mut buffer).await;
    }
    let spent = ALLOCATOR.stats() - before;
    let each = spent.allocations / ROUNDS;
    let moved = spent.reallocations / ROUNDS;
    let bytes = spent.bytes_allocated / ROUNDS;
    println!("a request: {each} allocations, {moved} reallocations, {bytes} bytes");
    assert!(
        each + moved <= ALLOCATIONS,
        "{each} + {moved} allocations a request"
    );

    const CLIENTS: usize = 200;
    let mut clients = Vec::with_capacity(CLIENTS);
    let before = held();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(address).await.unwrap();
        ask(&mut client, &mut buffer).await;
        clients.push(client);
    }
    // Two registrations each with the event loop, ours and the proxy's; only the latter is the proxy's cost.
    let each = (held() - before) / CLIENTS as isize;
    println!("a resting connection: {each} bytes, the test's own end included");
    assert!(each <= RESTING, "{each} bytes for a resting connection");
}

/// Allocations of one keep-alive HTTP/1.1 request through one proxy.
const ALLOCATIONS: usize = 32;
/// Bytes of heap of a connection that rests after a request, with both of its ends.
const RESTING: isize = 3072;
