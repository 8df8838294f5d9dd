//! What the tasks of the request path weigh: a future's size is memory of every connection.

use std::future::Future;
use std::mem::size_of;
use std::sync::Arc;

use http::request::Parts;

use super::server::HttpConnection;
use super::{h1, h2, router};
use crate::connection::Connection;
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
        of2(|stream: Stream, connection: Arc<Connection>| super::server::begin(stream, connection));
    let resting = of2(|server: Box<h1::Server>, http: Arc<HttpConnection>| h1::serve(server, http));
    let shared = of2(|stream: Replay<Stream>, http: Arc<HttpConnection>| h2::serve(stream, http));
    let request = of3(
        |http: &'static Arc<HttpConnection>,
         parts: Parts,
         client: &'static mut super::downstream::Downstream<'static>| {
            router::handle(http, parts, client)
        },
    );
    let server = size_of::<h1::Server>();
    let connection = size_of::<Connection>();
    println!(
        "arrival {task}, choice {choice}, resting {resting} + {server} + {connection}, shared {shared}, request {request}"
    );
    // Bounds are what they weigh and an eighth. The budget of a resting connection is 2 KiB with all it points to:
    // the task it arrived in, with the handshake, has ended by then, and so has the choice of the HTTP it speaks.
    assert!(resting + server + connection <= 1024);
    assert!(choice <= 256);
    assert!(task <= 3200);
    assert!(shared <= 3800);
    assert!(request <= 2100);
}
