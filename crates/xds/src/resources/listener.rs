//! The listeners of a sidecar.

use std::collections::BTreeSet;

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::TrafficDirection,
            listener::v3::{
                FilterChain, FilterChainMatch, Listener, ListenerFilter,
                ListenerFilterChainMatchPredicate, listener_filter,
                listener_filter_chain_match_predicate as predicate,
            },
            route::v3::{
                Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
                route_action, route_match,
            },
        },
        extensions::{
            filters::listener::{
                http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst,
                tls_inspector::v3::TlsInspector,
            },
            transport_sockets::tls::v3::DownstreamTlsContext,
        },
        r#type::v3::Int32Range,
    },
    google::protobuf::{Any, Duration},
};
use model::{
    Connect, Inbound, InboundChain, IngressChain, IngressGate, Outbound, OutboundChain,
    ProxyConfig, WeightedCluster,
};

use super::{build, chain, cluster};

const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15003;
const PROMETHEUS_PORT: u16 = 15010;

const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
const HTTP_INSPECTOR: &str = "envoy.filters.listener.http_inspector";

/// Path of the metrics, on the listener and behind it.
const METRICS_PATH: &str = "/stats/prometheus";

/// How long to wait for the client's first bytes, where they matter, before taking the connection for opaque.
const INSPECTION_MILLISECONDS: i32 = 200;

pub(super) fn outbound(config: &ProxyConfig, value: &Outbound) -> Listener {
    let passthrough = value.passthrough.then(|| {
        let name = "passthrough-outbound";
        FilterChain {
            name: name.to_owned(),
            filters: vec![chain::tcp(name, &WeightedCluster::all(name.into()))],
            ..Default::default()
        }
    });
    let tls_ports = inspected(value, |connect| matches!(connect, Connect::Tls(_)));
    let http_ports = inspected(value, |connect| matches!(connect, Connect::Http));
    Listener {
        name: "outbound-listener".to_owned(),
        address: Some(build::any_address(OUTBOUND_PORT)),
        traffic_direction: TrafficDirection::Outbound.into(),
        listener_filters: [
            Some(original_destination()),
            inspector(
                TLS_INSPECTOR,
                &build::any(&TlsInspector::default()),
                tls_ports,
            ),
            inspector(HTTP_INSPECTOR, &build::any(&HttpInspector {}), http_ports),
        ]
        .into_iter()
        .flatten()
        .collect(),
        listener_filters_timeout: Some(Duration {
            seconds: 0,
            nanos: INSPECTION_MILLISECONDS * 1_000_000,
        }),
        continue_on_listener_filters_timeout: true,
        filter_chains: value
            .chains
            .iter()
            .map(|chain| outbound_chain(config, chain))
            .collect(),
        default_filter_chain: passthrough,
        ..Default::default()
    }
}

fn outbound_chain(config: &ProxyConfig, value: &OutboundChain) -> FilterChain {
    let mut matches = FilterChainMatch {
        destination_port: build::number(value.matches.port.into()),
        prefix_ranges: value.matches.addresses.iter().map(build::cidr).collect(),
        ..Default::default()
    };
    match &value.matches.connect {
        Connect::Any => {}
        Connect::Http => {
            let protocols = ["http/1.0", "http/1.1", "h2c"];
            matches.application_protocols = protocols.map(str::to_owned).to_vec();
        }
        Connect::Tls(names) => {
            matches.transport_protocol = "tls".to_owned();
            matches.server_names = names.iter().map(ToString::to_string).collect();
        }
    }
    FilterChain {
        name: value.name.to_string(),
        filter_chain_match: Some(matches),
        filters: chain::outbound(config, &value.name, &value.forward),
        metadata: build::origin(&value.provenance),
        ..Default::default()
    }
}

pub(super) fn inbound(config: &ProxyConfig, value: &Inbound) -> Listener {
    let chains = value.chains.iter();
    let chains = chains.map(|chain| inbound_chain(config, &value.trust, chain));
    let ingress = value.ingress.iter();
    let ingress = ingress.map(|chain| ingress_chain(config, &value.trust, chain));
    Listener {
        name: "inbound-listener".to_owned(),
        address: Some(build::any_address(INBOUND_PORT)),
        traffic_direction: TrafficDirection::Inbound.into(),
        listener_filters: vec![
            original_destination(),
            listener_filter(TLS_INSPECTOR, build::any(&TlsInspector::default())),
        ],
        filter_chains: chains.chain(ingress).collect(),
        ..Default::default()
    }
}

fn inbound_chain(config: &ProxyConfig, trust: &str, value: &InboundChain) -> FilterChain {
    FilterChain {
        name: value.name.to_string(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: build::number(value.port.into()),
            transport_protocol: "tls".to_owned(),
            server_names: value.server_names.iter().map(ToString::to_string).collect(),
            application_protocols: vec![build::MESH_ALPN.to_owned()],
            ..Default::default()
        }),
        filters: chain::inbound(config, value),
        transport_socket: build::tls_socket(&DownstreamTlsContext {
            common_tls_context: Some(build::mesh_server_tls(config, trust)),
            require_client_certificate: build::yes(),
            ..Default::default()
        }),
        metadata: build::origin(&value.provenance),
        ..Default::default()
    }
}

/// For clients outside the mesh. They do not speak the mesh's ALPN, so no chain of the mesh is taken from it.
fn ingress_chain(config: &ProxyConfig, trust: &str, value: &IngressChain) -> FilterChain {
    let mut matches = FilterChainMatch {
        destination_port: build::number(value.port.into()),
        source_prefix_ranges: value.sources.iter().map(build::cidr).collect(),
        transport_protocol: "raw_buffer".to_owned(),
        ..Default::default()
    };
    let mut transport_socket = None;
    if let IngressGate::Tls {
        server_names,
        verified,
    } = &value.gate
    {
        matches.transport_protocol = "tls".to_owned();
        matches.server_names = server_names.iter().map(ToString::to_string).collect();
        transport_socket = build::tls_socket(&DownstreamTlsContext {
            common_tls_context: Some(build::ingress_tls(config, verified.then_some(trust))),
            require_client_certificate: verified.then(build::yes).flatten(),
            ..Default::default()
        });
    }
    FilterChain {
        name: value.name.to_string(),
        filter_chain_match: Some(matches),
        filters: vec![chain::ingress(config, value)],
        transport_socket,
        metadata: build::origin(&value.provenance),
        ..Default::default()
    }
}

/// Serves the proxy's metrics and nothing else of its administration interface.
pub(super) fn prometheus() -> Listener {
    let route = Route {
        name: "metrics".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Path(METRICS_PATH.to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(
                cluster::METRICS.to_owned(),
            )),
            ..Default::default()
        })),
        ..Default::default()
    };
    let table = RouteConfiguration {
        name: "prometheus".to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "prometheus".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    };
    Listener {
        name: "inbound-prometheus-listener".to_owned(),
        address: Some(build::any_address(PROMETHEUS_PORT)),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![FilterChain {
            name: "prometheus".to_owned(),
            filters: vec![chain::fixed_http("prometheus", table)],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn original_destination() -> ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_dst",
        build::any(&OriginalDst {}),
    )
}

/// Ports on which the choice of a chain depends on the client's first bytes. Anywhere else looking at
/// them would only delay servers that speak first, declared as such or not.
fn inspected(value: &Outbound, depends: fn(&Connect) -> bool) -> BTreeSet<u16> {
    let chains = value.chains.iter();
    let chains = chains.filter(|chain| depends(&chain.matches.connect));
    let ports = chains.map(|chain| chain.matches.port);
    ports
        .filter(|port| !value.server_first.contains(port))
        .collect()
}

/// A filter that looks at the client's first bytes on these ports only; `None` without any.
fn inspector(name: &str, config: &Any, ports: BTreeSet<u16>) -> Option<ListenerFilter> {
    let rule = |rule| ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let mut ranges: Vec<_> = ports
        .into_iter()
        .map(|port| {
            rule(predicate::Rule::DestinationPortRange(Int32Range {
                start: port.into(),
                end: i32::from(port) + 1,
            }))
        })
        .collect();
    let ports = match ranges.len() {
        // Envoy wants at least two in a set.
        0 | 1 => ranges.pop()?,
        _ => rule(predicate::Rule::OrMatch(predicate::MatchSet {
            rules: ranges,
        })),
    };
    Some(ListenerFilter {
        filter_disabled: Some(rule(predicate::Rule::NotMatch(Box::new(ports)))),
        ..listener_filter(name, config.clone())
    })
}

fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
