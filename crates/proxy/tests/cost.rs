//! What an exchange costs in allocations, and a connection at rest in memory. Alone in its process: it counts for all.
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
use support::calls::{self, Caller};
use support::{Http, Proxy, any, http_chain, listener, routes, static_cluster};
use xds::client::Kind;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations and reallocations of one keep-alive HTTP/1.1 request through one proxy.
const OF_HTTP1: isize = 25;
/// The same of a unary gRPC call.
const OF_GRPC: isize = 33;
/// Bytes of heap of a connection that rests after a request, with both of its ends.
const RESTING: isize = 2000;

async fn proxy(application: SocketAddr, http: Http) -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::new(None);
    let cluster = static_cluster("c", &[application], http);
    proxy.push(Kind::Cluster, vec![("c", any(&cluster))], &[]);
    let config = listener("l", vec![http_chain("r", None)], false);
    proxy.push(Kind::Listener, vec![("l", any(&config))], &[]);
    let table = routes("r", vec![("/.*", "c")]);
    proxy.push(Kind::Routes, vec![("r", any(&table))], &[]);
    let address = proxy.address("l");
    (proxy, address)
}

/// Allocations and reallocations of one exchange, on all sides.
async fn of_each(mut caller: Caller) -> isize {
    const ROUNDS: usize = 200;
    for _ in 0..50 {
        caller.call().await;
    }
    let before = ALLOCATOR.stats();
    for _ in 0..ROUNDS {
        caller.call().await;
    }
    let spent = ALLOCATOR.stats() - before;
    println!(
        "{} allocations, {} reallocations, {} bytes",
        spent.allocations / ROUNDS,
        spent.reallocations / ROUNDS,
        spent.bytes_allocated / ROUNDS
    );
    isize::try_from((spent.allocations + spent.reallocations).div_ceil(ROUNDS)).unwrap()
}

fn held() -> isize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize + stats.bytes_reallocated
}

#[tokio::test]
async fn an_exchange_and_a_resting_connection_cost_little() {
    let application = calls::http1().await;
    let (_proxy, address) = proxy(application, Http::One).await;
    let direct = of_each(Caller::http1(application).await).await;
    assert_eq!(direct, 0, "the test's own ends allocate nothing");
    let each = of_each(Caller::http1(address).await).await;
    assert!(each <= OF_HTTP1, "{each} allocations a request");

    const CLIENTS: usize = 200;
    let mut clients = Vec::with_capacity(CLIENTS);
    let before = held();
    for _ in 0..CLIENTS {
        let mut client = Caller::http1(address).await;
        client.call().await;
        clients.push(client);
    }
    // Two registrations each with the event loop, ours and the proxy's; only the latter is the proxy's cost.
    let each = (held() - before) / CLIENTS as isize;
    println!("a resting connection: {each} bytes, the test's own end included");
    assert!(each <= RESTING, "{each} bytes for a resting connection");
    drop(clients);

    let application = calls::grpc().await;
    let (_proxy, address) = proxy(application, Http::Two).await;
    let direct = of_each(Caller::grpc(application).await).await;
    let each = of_each(Caller::grpc(address).await).await - direct;
    println!("a call: {each} allocations of the proxy");
    assert!(each <= OF_GRPC, "{each} allocations a call");
}
