//! The sidecar proxy: driven by Envoy's xDS v3 over ADS, it knows no Kubernetes.
//!
//! A control thread owns xDS, certificates, DNS and the administration; workers, each an event loop on a thread
//! of its own, serve connections from an immutable [`snapshot::Snapshot`] that is swapped by pointer.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

pub mod access;
pub mod admin;
pub mod ads;
pub mod agent;
mod arrival;
pub mod bell;
pub mod bootstrap;
pub mod bucket;
pub mod chain;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod control_plane;
pub mod copy;
pub mod dns;
pub mod format;
pub mod fraction;
pub mod gate;
pub mod http;
pub mod identity;
pub mod inspect;
pub mod listener;
pub mod listeners;
pub mod matcher;
pub mod net;
pub mod network;
pub mod overload;
pub mod probes;
pub mod proxy_protocol;
pub mod rbac;
pub mod reason;
pub mod route;
pub mod run;
pub mod settings;
pub mod snapshot;
pub mod socket_options;
pub mod spans;
pub mod stats;
pub mod tcp;
pub mod tls;
pub mod upstream;
pub mod worker;
