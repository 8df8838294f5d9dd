//! How a cluster's connections are opened, from protobuf.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3 as core;
use socket2::TcpKeepalive;

use super::super::{At, Checked, ip_address};
use crate::net::SocketOptions;

pub(super) fn options(message: &pb::Cluster) -> Checked<SocketOptions> {
    let bind = message.upstream_bind_config.as_ref();
    let source = bind.and_then(|bind| bind.source_address.as_ref());
    let options = message.upstream_connection_options.as_ref();
    Ok(SocketOptions {
        source: source
            .map(ip_address)
            .transpose()
            .at("upstream_bind_config.source_address")?,
        keepalive: options
            .and_then(|options| options.tcp_keepalive.as_ref())
            .map(keepalive),
    })
}

/// What is not set is the system's.
fn keepalive(message: &core::TcpKeepalive) -> TcpKeepalive {
    let seconds = |value: u32| Duration::from_secs(u64::from(value.max(1)));
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = message.keepalive_time {
        keepalive = keepalive.with_time(seconds(time.value));
    }
    if let Some(interval) = message.keepalive_interval {
        keepalive = keepalive.with_interval(seconds(interval.value));
    }
    if let Some(probes) = message.keepalive_probes {
        keepalive = keepalive.with_retries(probes.value.max(1));
    }
    keepalive
}
