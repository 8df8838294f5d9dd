//! Real programs through the pair.

mod databases;
mod grpc;
mod http;
mod program;

use crate::Trial;

pub const TRIALS: &[Trial] = &[
    ("curl and nginx over HTTP/1.1", |_| Box::pin(http::curl())),
    ("curl and nginx over HTTP/2", |_| Box::pin(http::curl2())),
    ("curl and nginx, our client and Envoy's server", |_| {
        Box::pin(http::our_client())
    }),
    ("curl and nginx, Envoy's client and our server", |_| {
        Box::pin(http::our_server())
    }),
    ("h2load against nginx", |_| Box::pin(http::h2load())),
    ("a WebSocket client and server", |_| {
        Box::pin(http::websocket())
    }),
    ("gRPC: tonic", |_| Box::pin(grpc::tonic())),
    ("gRPC: Python's grpcio", |_| Box::pin(grpc::python())),
    ("PostgreSQL", |_| Box::pin(databases::postgres())),
    ("Redis", |_| Box::pin(databases::redis())),
    ("MariaDB, which speaks first", |_| {
        Box::pin(databases::mariadb())
    }),
];
