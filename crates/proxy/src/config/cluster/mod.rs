//! Clusters and endpoints from protobuf.

mod breaker;
mod check;
mod circuit;
mod discovery;
mod outlier;
mod policy;
mod socket;
mod subset;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::transport_socket;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;

use super::http::{h2, requests};
use super::{At, Checked, Context, duration, extension, limit, refuse, tls};
use crate::cluster::{ClusterConfig, UpstreamHttp};
use crate::tls::UpstreamTls;
pub(super) use discovery::assignment;
pub(super) use subset::labels;

/// Envoy's defaults.
const CONNECT: Duration = Duration::from_secs(5);
const CLEANUP: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3600);
/// The key of the HTTP options of a cluster.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

#[allow(deprecated)] // Control planes still send the old fields.
pub(super) fn cluster(message: pb::Cluster, context: &mut Context) -> Checked<ClusterConfig> {
    let (policy, balance) = policy::policy(&message)?;
    let options = http_options(&message)?;
    let common = options
        .as_ref()
        .and_then(|o| o.common_http_protocol_options.as_ref());
    let common = common.or(message.common_http_protocol_options.as_ref());
    let lifetime = common.and_then(|common| common.max_stream_duration.as_ref());
    if limit(lifetime, None)?.is_some() {
        return refuse("not supported for clusters")
            .at("common_http_protocol_options.max_stream_duration");
    }
    let discovery = discovery::discovery(&message, context)?;
    let per_connection = message
        .max_requests_per_connection
        .map(|limit| u64::from(limit.value));
    Ok(ClusterConfig {
        name: message.name.as_str().into(),
        discovery,
        policy,
        balance,
        subsets: message
            .lb_subset_config
            .as_ref()
            .map(subset::subsetting)
            .transpose()
            .at("lb_subset_config")?,
        connect_timeout: match &message.connect_timeout {
            Some(timeout) => duration(timeout).at("connect_timeout")?,
            None => CONNECT,
        },
        tls: transport(&message, context).at("transport_socket.typed_config")?,
        http: match &options {
            Some(options) => protocol(options).at(format_args!(
                "typed_extension_protocol_options[{HTTP_OPTIONS:?}]"
            ))?,
            None => legacy_protocol(&message)?,
        },
        idle_timeout: limit(
            common.and_then(|common| common.idle_timeout.as_ref()),
            Some(IDLE),
        )
        .at("common_http_protocol_options.idle_timeout")?
        .unwrap_or(Duration::MAX),
        max_connection_duration: limit(
            common.and_then(|common| common.max_connection_duration.as_ref()),
            None,
        )
        .at("common_http_protocol_options.max_connection_duration")?,
        socket: socket::options(&message)?,
        thresholds: breaker::thresholds(message.circuit_breakers.as_ref())
            .at("circuit_breakers")?,
        circuit: circuit::circuit(message.metadata.as_ref())?,
        original: discovery::original(&message).at("original_dst_lb_config")?,
        cleanup_interval: match &message.cleanup_interval {
            Some(interval) => duration(interval)
                .at("cleanup_interval")?
                .max(Duration::from_millis(1)),
            None => CLEANUP,
        },
        check: check::check(&message.health_checks)?.map(Arc::new),
        close_on_health_failure: message.close_connections_on_host_health_failure,
        ignore_health_on_removal: message.ignore_health_on_host_removal,
        outliers: message
            .outlier_detection
            .as_ref()
            .map(outlier::outliers)
            .transpose()
            .at("outlier_detection")?,
        max_requests_per_connection: requests(common).or(per_connection.filter(|limit| *limit > 0)),
    })
}

fn transport(message: &pb::Cluster, context: &mut Context) -> Checked<Option<UpstreamTls>> {
    let Some(socket) = &message.transport_socket else {
        return Ok(None);
    };
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return refuse("an UpstreamTlsContext is needed");
    };
    match extension::<UpstreamTlsContext>(any) {
        Some(found) => tls::upstream(&found?, context).map(Some),
        None => Ok(None), // The support table lets only a raw buffer pass beside TLS.
    }
}

fn http_options(message: &pb::Cluster) -> Checked<Option<upstream::HttpProtocolOptions>> {
    let Some(any) = message.typed_extension_protocol_options.get(HTTP_OPTIONS) else {
        return Ok(None);
    };
    let found = extension(any).transpose();
    found.at(format_args!(
        "typed_extension_protocol_options[{HTTP_OPTIONS:?}]"
    ))
}

fn protocol(options: &upstream::HttpProtocolOptions) -> Checked<UpstreamHttp> {
    use upstream::http_protocol_options::UpstreamProtocolOptions;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            match &explicit.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(settings)) => Ok(UpstreamHttp::Http2(
                    h2(Some(settings)).at("explicit_http_config.http2_protocol_options")?,
                )),
                Some(ProtocolConfig::HttpProtocolOptions(_)) => Ok(UpstreamHttp::Http1),
                _ => refuse("HTTP/1 or HTTP/2 options are needed").at("explicit_http_config"),
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => {
            Ok(UpstreamHttp::Downstream(
                h2(both.http2_protocol_options.as_ref())
                    .at("use_downstream_protocol_config.http2_protocol_options")?,
            ))
        }
        _ => refuse("explicit_http_config or use_downstream_protocol_config is needed"),
    }
}

#[allow(deprecated)] // Control planes still send the old fields.
fn legacy_protocol(message: &pb::Cluster) -> Checked<UpstreamHttp> {
    let use_downstream = pb::cluster::ClusterProtocolSelection::UseDownstreamProtocol;
    match &message.http2_protocol_options {
        _ if message.protocol_selection == i32::from(use_downstream) => {
            Ok(UpstreamHttp::Downstream(
                h2(message.http2_protocol_options.as_ref()).at("http2_protocol_options")?,
            ))
        }
        Some(settings) => Ok(UpstreamHttp::Http2(
            h2(Some(settings)).at("http2_protocol_options")?,
        )),
        None => Ok(UpstreamHttp::Http1),
    }
}
