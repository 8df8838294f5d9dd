//! Traces: what connection managers do about them, and the collector's cluster.

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::Cluster,
        trace::v3::{ZipkinConfig, tracing, zipkin_config::CollectorEndpointVersion},
    },
    extensions::filters::network::http_connection_manager::v3::http_connection_manager,
    r#type::v3::Percent,
};
use model::{ClusterKind, ConnectionLimits, ProxyConfig, Tracing, UpstreamHttp};

use super::{build, cluster};

/// Name of the cluster, upstream's.
const CLUSTER: &str = "envoy-tracing-cluster";

/// Spans go to Zipkin's API, as upstream: Jaeger and the OpenTelemetry collector take them, too.
pub(super) fn tracing(tracing: &Tracing) -> http_connection_manager::Tracing {
    let zipkin = ZipkinConfig {
        collector_cluster: CLUSTER.to_owned(),
        collector_endpoint: tracing.path.to_string(),
        collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
        collector_hostname: tracing.host.to_string(),
        ..Default::default()
    };
    http_connection_manager::Tracing {
        random_sampling: Some(Percent {
            value: f64::from(tracing.sampled) / 100.0,
        }),
        verbose: true,
        provider: Some(tracing::Http {
            name: "envoy.tracers.zipkin".to_owned(),
            config_type: Some(tracing::http::ConfigType::TypedConfig(build::any(&zipkin))),
        }),
        ..Default::default()
    }
}

/// The collector is reached in clear text, as upstream does.
pub(super) fn cluster(config: &ProxyConfig, tracing: &Tracing) -> Cluster {
    let value = model::Cluster {
        name: CLUSTER.into(),
        kind: ClusterKind::Dns {
            host: tracing.host.clone(),
            port: tracing.port,
        },
        // Nothing is said of HTTP: both proxies then speak HTTP/1.1.
        http: UpstreamHttp::Opaque,
        limits: ConnectionLimits::default(),
    };
    cluster::cluster(config, &value)
}
