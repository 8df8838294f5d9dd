//! Network filters: connection manager and TCP proxy.

use envoy_types::pb::{
    envoy::{
        config::core::v3::Http2ProtocolOptions,
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
use model::{Access, Forward, InboundChain, IngressChain, ProxyConfig, WeightedCluster};

use super::{authorizer, build, limit, quota, rbac, tracing};

/// Filters of an outbound chain.
pub(super) fn outbound(config: &ProxyConfig, name: &str, forward: &Forward) -> Vec<Filter> {
    vec![match forward {
        Forward::Http(table) => http(config, name, table, Vec::new()),
        Forward::Tcp(clusters) => tcp(name, clusters),
    }]
}

/// Filters of an inbound chain: who may connect and how often, then who may request what, how often, and what a
/// third party says of it, and last who else counts (scenario EXT-05).
pub(super) fn inbound(config: &ProxyConfig, chain: &InboundChain) -> Vec<Filter> {
    let mut filters = Vec::new();
    if let Access::Only(rules) = &chain.connections {
        let gate = rbac::network_filter(rules, &chain.name);
        filters.push(filter("envoy.filters.network.rbac", gate));
    }
    if let Some(rate) = &chain.connection_rate {
        let bucket = limit::connection_filter(&chain.name, rate);
        filters.push(filter(limit::CONNECTIONS, bucket));
    }
    if let Some(asked) = &chain.connection_quota {
        let asking = quota::connection_filter(&chain.name, asked);
        filters.push(filter(quota::CONNECTIONS, asking));
    }
    filters.push(match &chain.forward {
        Forward::Http(table) => {
            let limits = chain.limits_requests;
            let mut before = inbound_http_filters(config, &chain.requests, limits);
            for (stage, asked) in (0..).zip(&chain.request_quotas) {
                let asking = quota::request_filter(stage, asked);
                before.push(http_filter(&quota::request_filter_name(stage), asking));
            }
            http(config, &chain.name, table, before)
        }
        Forward::Tcp(clusters) => tcp(&chain.name, clusters),
    });
    filters
}

/// The filter of a chain for clients outside the mesh.
pub(super) fn ingress(config: &ProxyConfig, chain: &IngressChain) -> Filter {
    let before = inbound_http_filters(config, &chain.requests, false);
    http(config, &chain.name, &chain.table, before)
}

/// In this order: what is forbidden uses up no limit, and what is over a limit is not shown to the authorizer
/// (scenario EXT-05).
fn inbound_http_filters(config: &ProxyConfig, requests: &Access, limits: bool) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    if let Access::Only(rules) = requests {
        filters.push(http_filter(
            "envoy.filters.http.rbac",
            rbac::http_filter(rules),
        ));
    }
    if limits {
        filters.push(http_filter(limit::REQUESTS, limit::request_filter()));
    }
    if let Some(authorizer) = &config.authorizer {
        filters.push(http_filter(
            "envoy.filters.http.ext_authz",
            authorizer::filter(authorizer),
        ));
    }
    filters
}

fn filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// `before`: the filters in front of the router.
fn http(config: &ProxyConfig, stat_prefix: &str, table: &str, before: Vec<HttpFilter>) -> Filter {
    let mut manager = manager(
        stat_prefix,
        http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: build::ads(),
            route_config_name: table.to_owned(),
        }),
        before,
    );
    manager.tracing = config.tracing.as_deref().map(tracing::tracing);
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
    let manager = manager(stat_prefix, routes, Vec::new());
    filter(
        "envoy.filters.network.http_connection_manager",
        build::any(&manager),
    )
}

fn manager(
    stat_prefix: &str,
    routes: http_connection_manager::RouteSpecifier,
    mut filters: Vec<HttpFilter>,
) -> HttpConnectionManager {
    let router = build::any(&Router::default());
    filters.push(http_filter("envoy.filters.http.router", router));
    HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters: filters,
        upgrade_configs: vec![http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        // WebSocket over HTTP/2 (RFC 8441).
        http2_protocol_options: Some(Http2ProtocolOptions {
            allow_connect: true,
            ..Default::default()
        }),
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
