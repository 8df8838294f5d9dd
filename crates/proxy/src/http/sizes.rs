//! What the tasks of the request path weigh: a future's size is memory of every connection.

use std::future::Future;
use std::mem::size_of;
use std::sync::Arc;

use http::request::Parts;

use super::server::HttpConnection;
use super::{h1, h2, router};
use crate::connection::Connection;
use crate::listener::HttpManager;
use crate::net::{Replay, Stream};

fn of2<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

fn of3<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn of5<A, B, C, D, E, F: Future>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn futures_are_small() {
    let task = of5(|tcp, source, listener, stats, worker| {
        crate::connection::serve(tcp, source, listener, stats, worker, ())
    });
    let choice =
        of2(|stream: Stream, connection: Arc<Connection>| super::server::serve(stream, connection));
    let resting = of3(
        |server: Box<h1::Server>, http: Arc<HttpConnection>, manager: &'static HttpManager| {
            h1::serve(server, http, manager)
        },
    );
    let shared = of3(
        |stream: Replay<Stream>, http: Arc<HttpConnection>, manager: &'static HttpManager| {
            h2::serve(stream, http, manager)
        },
    );
    let request = of3(
        |http: &'static Arc<HttpConnection>,
         parts: Parts,
         client: &'static mut super::downstream::Downstream<'static>| {
            router::handle(http, parts, client)
        },
    );
    let server = size_of::<h1::Server>();
    println!(
        "arrival {task}, choice {choice}, resting {resting} + {server}, shared {shared}, request {request}"
    );
    // The budget of a resting connection is 2 KiB with all it points to, of a request 8 KiB. The task it arrived in,
    // with the handshake, has ended by then.
    assert!(choice + resting + server <= 1500);
    assert!(task <= 4 << 10);
    assert!(shared <= 4 << 10);
    assert!(request <= 4 << 10);
}
