//! Clusters and their endpoints.

use std::{collections::HashMap, net::SocketAddr};

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{Cluster, cluster},
        core::v3::{
            Http1ProtocolOptions, Http2ProtocolOptions,
            HttpProtocolOptions as HttpProtocolOptionsOfAllVersions,
        },
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
        },
    },
    extensions::{
        transport_sockets::tls::v3::UpstreamTlsContext,
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                explicit_http_config::ProtocolConfig,
            },
        },
    },
};
use model::{ClusterKind, ProxyConfig, UpstreamHttp};

use super::{build, limit};

/// How long a connection may take to come about: Envoy's own default, which OSM does not change.
const CONNECT_TIMEOUT_SECONDS: i64 = 5;

/// Key of HTTP options among a cluster's extension options.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Name of the cluster behind the Prometheus listener.
pub(super) const METRICS: &str = "prometheus-metrics";

/// Port of the proxy's administration interface.
const ADMIN_PORT: u16 = 15000;

pub(super) fn cluster(config: &ProxyConfig, value: &model::Cluster) -> Cluster {
    let mut message = Cluster {
        name: value.name.to_string(),
        connect_timeout: Some(match value.limits.connect_timeout {
            Some(timeout) => build::duration(timeout),
            None => build::seconds(CONNECT_TIMEOUT_SECONDS),
        }),
        circuit_breakers: Some(limit::circuit_breakers(&value.limits)),
        typed_extension_protocol_options: http_options(value),
        metadata: limit::breaker(value),
        ..Default::default()
    };
    let kind = match &value.kind {
        ClusterKind::Mesh {
            server_name, trust, ..
        } => {
            message.eds_cluster_config = Some(cluster::EdsClusterConfig {
                eds_config: build::ads(),
                service_name: String::new(),
            });
            message.transport_socket = build::tls_socket(&UpstreamTlsContext {
                common_tls_context: Some(build::mesh_client_tls(config, trust)),
                sni: server_name.to_string(),
                ..Default::default()
            });
            cluster::DiscoveryType::Eds
        }
        ClusterKind::Local(address) => {
            message.load_assignment = Some(assignment(&value.name, &[endpoint(address)]));
            cluster::DiscoveryType::Static
        }
        ClusterKind::Dns { host, port } => {
            let target = lb_endpoint(host, *port);
            message.load_assignment = Some(assignment(&value.name, &[target]));
            // Names with addresses of both families are common, hosts with IPv4 only even more so.
            message.dns_lookup_family = cluster::DnsLookupFamily::V4Preferred.into();
            cluster::DiscoveryType::StrictDns
        }
        ClusterKind::OriginalDestination => {
            message.lb_policy = cluster::LbPolicy::ClusterProvided.into();
            cluster::DiscoveryType::OriginalDst
        }
    };
    message.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(kind.into()));
    message
}

/// The endpoints of a cluster that are discovered by themselves.
pub(super) fn endpoints(value: &model::Cluster) -> Option<ClusterLoadAssignment> {
    let ClusterKind::Mesh { endpoints, .. } = &value.kind else {
        return None;
    };
    let endpoints: Vec<LbEndpoint> = endpoints.iter().map(endpoint).collect();
    Some(assignment(&value.name, &endpoints))
}

/// The proxy's own metrics.
pub(super) fn metrics() -> Cluster {
    let target = lb_endpoint("127.0.0.1", ADMIN_PORT);
    let kind = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into());
    Cluster {
        name: METRICS.to_owned(),
        connect_timeout: Some(build::seconds(CONNECT_TIMEOUT_SECONDS)),
        cluster_discovery_type: Some(kind),
        load_assignment: Some(assignment(METRICS, &[target])),
        ..Default::default()
    }
}

fn assignment(name: &str, endpoints: &[LbEndpoint]) -> ClusterLoadAssignment {
    let locality = LocalityLbEndpoints {
        lb_endpoints: endpoints.to_vec(),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: if endpoints.is_empty() {
            Vec::new()
        } else {
            vec![locality]
        },
        ..Default::default()
    }
}

fn endpoint(address: &SocketAddr) -> LbEndpoint {
    lb_endpoint(&address.ip().to_string(), address.port())
}

fn lb_endpoint(host: &str, port: u16) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: Some(build::address(host, port)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn http_options(value: &model::Cluster) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    let options = match value.http {
        UpstreamHttp::Opaque => return HashMap::new(),
        UpstreamHttp::Http2 => {
            let http2 = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
            UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(http2),
            })
        }
        UpstreamHttp::AsDownstream => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                ..Default::default()
            })
        }
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(options),
        common_http_protocol_options: value.limits.requests_per_connection.map(|limit| {
            HttpProtocolOptionsOfAllVersions {
                max_requests_per_connection: build::number(limit),
                ..Default::default()
            }
        }),
        ..Default::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), build::any(&options))])
}
