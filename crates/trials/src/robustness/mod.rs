//! What goes wrong around a proxy. No answer may be wrong; requests may fail only where something on their way failed.

mod application;
mod connections;
mod load;
mod network;
mod overload;
mod pushes;
mod shutdown;
mod tracing;
mod upstreams;

use crate::Trial;

pub const TRIALS: &[Trial] = &[
    ("ten pushes a second under load", |seconds| {
        Box::pin(pushes::under_load(seconds))
    }),
    ("endpoints that come and go", |seconds| {
        Box::pin(upstreams::churn(seconds))
    }),
    (
        "an application that is killed and started again",
        |seconds| Box::pin(upstreams::restarts(seconds)),
    ),
    ("a sidecar that is stopped for a while", |_| {
        Box::pin(upstreams::stopped())
    }),
    ("a control plane that goes away and comes back", |seconds| {
        Box::pin(pushes::without_control_plane(seconds))
    }),
    ("packets that are lost", |seconds| {
        Box::pin(network::loss(seconds))
    }),
    ("a link that delays", |seconds| {
        Box::pin(network::delay(seconds))
    }),
    ("no file descriptors left", |_| {
        Box::pin(connections::exhaustion())
    }),
    ("a sidecar short of something", |_| {
        Box::pin(overload::injected())
    }),
    ("spans and contexts, judged by Envoy", |_| {
        Box::pin(tracing::judged())
    }),
    ("the client's sidecar is told to stop", |_| {
        Box::pin(shutdown::of_client())
    }),
    ("the server's sidecar is told to stop", |_| {
        Box::pin(shutdown::of_server())
    }),
    ("ten thousand connections come and go", |_| {
        Box::pin(connections::ten_thousand())
    }),
];
