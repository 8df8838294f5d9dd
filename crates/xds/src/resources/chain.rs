//! Network filters: connection manager and TCP proxy.

use envoy_types::pb::{
    envoy::{
        config::listener::v3::{Filter, filter},
        extensions::filters::{
            http::router::v3::Router,
            network::{
                http_connection_manager::v3::{
                    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
                },
                tcp_proxy::v3::{TcpProxy, tcp_proxy},
            },
        },
    },
    google::protobuf::Any,
};
use model::{Access, Forward, InboundChain, IngressChain, WeightedCluster};

use super::{build, rbac};

/// Filters of an outbound chain.
pub(super) fn outbound(name: &str, forward: &Forward) -> Vec<Filter> {
    vec![match forward {
        Forward::Http(table) => http(name, table, None),
        Forward::Tcp(clusters) => tcp(name, clusters),
    }]
}

/// Filters of an inbound chain: who may connect, then who may request what.
pub(super) fn inbound(chain: &InboundChain) -> Vec<Filter> {
    let gate = match &chain.connections {
        Access::Everyone => None,
        Access::Only(rules) => {
            let config = rbac::network_filter(rules, &chain.name);
            Some(filter("envoy.filters.network.rbac", config))
        }
    };
    let last = match &chain.forward {
        Forward::Http(table) => http(&chain.name, table, Some(&chain.requests)),
        Forward::Tcp(clusters) => tcp(&chain.name, clusters),
    };
    gate.into_iter().chain([last]).collect()
}

/// The filter of a chain for clients outside the mesh.
pub(super) fn ingress(chain: &IngressChain) -> Filter {
    http(&chain.name, &chain.table, Some(&chain.requests))
}

fn filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// `requests`: who may request what, for inbound chains.
fn http(stat_prefix: &str, table: &str, requests: Option<&Access>) -> Filter {
    let rules = match requests {
        Some(Access::Only(rules)) => Some(rbac::http_filter(rules)),
        Some(Access::Everyone) | None => None,
    };
    let rbac = rules.map(|rules| http_filter("envoy.filters.http.rbac", rules));
    let manager = manager(
        stat_prefix,
        http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: build::ads(),
            route_config_name: table.to_owned(),
        }),
        rbac,
    );
    filter(
        "envoy.filters.network.http_connection_manager",
        build::any(&manager),
    )
}

/// A connection manager that serves a fixed table.
pub(super) fn fixed_http(
    stat_prefix: &str,
    table: envoy_types::pb::envoy::config::route::v3::RouteConfiguration,
) -> Filter {
    let routes = http_connection_manager::RouteSpecifier::RouteConfig(table);
    let manager = manager(stat_prefix, routes, None);
    filter(
        "envoy.filters.network.http_connection_manager",
        build::any(&manager),
    )
}

fn manager(
    stat_prefix: &str,
    routes: http_connection_manager::RouteSpecifier,
    rbac: Option<HttpFilter>,
) -> HttpConnectionManager {
    let router = http_filter("envoy.filters.http.router", build::any(&Router::default()));
    HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters: rbac.into_iter().chain([router]).collect(),
        upgrade_configs: vec![http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        // Grants speak of paths: `/public/../admin` must be judged as what it leads to.
        normalize_path: build::yes(),
        // The application's own `server` header stays, as the pages of the egress guide show it.
        server_header_transformation:
            http_connection_manager::ServerHeaderTransformation::AppendIfAbsent.into(),
        ..Default::default()
    }
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// A proxy for opaque connections.
pub(super) fn tcp(stat_prefix: &str, clusters: &[WeightedCluster]) -> Filter {
    let specifier = match clusters {
        [only] => tcp_proxy::ClusterSpecifier::Cluster(only.name.to_string()),
        several => tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: several
                .iter()
                .map(|cluster| tcp_proxy::weighted_cluster::ClusterWeight {
                    name: cluster.name.to_string(),
                    weight: cluster.weight,
                    metadata_match: None,
                })
                .collect(),
        }),
    };
    let proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(specifier),
        ..Default::default()
    };
    filter("envoy.filters.network.tcp_proxy", build::any(&proxy))
}
