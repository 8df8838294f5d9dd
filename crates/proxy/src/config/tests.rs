//! Resources as a control plane sends them, and what is refused of them.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use prost::{Message, Name};
use xds::client::{Any, Kind, Parser};

use super::{ConfigParser, Value};

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn refusal<M: Message + Name>(kind: Kind, message: &M) -> String {
    let mut parser = ConfigParser {
        own_certificate: "service-cert:ns/sa".into(),
    };
    match parser.parse(kind, "x", &any(message)) {
        Ok(_) => "accepted".to_owned(),
        Err(rejected) => rejected.to_string(),
    }
}

fn chain(name: &str) -> listener::FilterChain {
    let proxy = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    };
    listener::FilterChain {
        name: name.into(),
        filters: vec![listener::Filter {
            name: "tcp".into(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any(&proxy))),
        }],
        ..Default::default()
    }
}

#[test]
fn what_is_refused_is_named() {
    use envoy_types::pb::envoy::config::core::v3::{
        Address, SocketAddress, address, socket_address,
    };
    let address = Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: "::".into(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(15001)),
            ..Default::default()
        })),
    };
    let base = listener::Listener {
        name: "l".into(),
        address: Some(address),
        ..Default::default()
    };
    let good = listener::Listener {
        filter_chains: vec![chain("a")],
        ..base.clone()
    };
    assert_eq!(refusal(Kind::Listener, &good), "accepted");
    assert_eq!(
        refusal(Kind::Listener, &base),
        "filter_chains: at least one filter chain is needed"
    );
    let twins = listener::Listener {
        filter_chains: vec![chain("a"), chain("b")],
        ..base.clone()
    };
    assert_eq!(
        refusal(Kind::Listener, &twins),
        "filter_chains[1]: has the same conditions as filter_chains[0]"
    );
    let mut empty = chain("a");
    empty.filters.clear();
    let no_filters = listener::Listener {
        filter_chains: vec![empty],
        ..base.clone()
    };
    assert_eq!(
        refusal(Kind::Listener, &no_filters),
        "filter_chains[0].filters: at least one filter is needed"
    );
    let nowhere = listener::Listener {
        address: None,
        ..good
    };
    assert_eq!(
        refusal(Kind::Listener, &nowhere),
        "address: a socket_address is needed"
    );
}

#[test]
fn an_eds_cluster_needs_its_endpoints() {
    let message = cluster::Cluster {
        name: "ns/svc|80".into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        ..Default::default()
    };
    let mut parser = ConfigParser {
        own_certificate: "own".into(),
    };
    let parsed = parser.parse(Kind::Cluster, "x", &any(&message)).unwrap();
    assert_eq!(&*parsed.references[0].name, "ns/svc|80");
    assert!(matches!(parsed.value.value, Value::Cluster(_)));
}

#[test]
fn clusters_are_checked() {
    use cluster::cluster::{
        CommonLbConfig, DiscoveryType, LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig,
        RoundRobinLbConfig, SlowStartConfig,
    };
    use envoy_types::pb::envoy::r#type::v3::Percent;
    use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value, UInt64Value};
    let named = || cluster::Cluster {
        name: "c".into(),
        ..Default::default()
    };
    let outliers = |change: fn(&mut cluster::OutlierDetection)| {
        let mut detection = cluster::OutlierDetection::default();
        change(&mut detection);
        cluster::Cluster {
            outlier_detection: Some(detection),
            ..named()
        }
    };
    let policy = |policy: LbPolicy, config| cluster::Cluster {
        lb_policy: policy.into(),
        lb_config: Some(config),
        ..named()
    };
    let cases = [
        (named(), "accepted"),
        (outliers(|_| {}), "accepted"),
        (
            outliers(|d| d.max_ejection_percent = Some(UInt32Value { value: 101 })),
            "outlier_detection.max_ejection_percent: 101 is more than 100",
        ),
        (
            outliers(|d| d.detect_degraded_hosts = Some(BoolValue { value: true })),
            "outlier_detection.detect_degraded_hosts: not supported: degraded hosts are those the control plane names",
        ),
        (
            policy(
                LbPolicy::Maglev,
                LbConfig::MaglevLbConfig(MaglevLbConfig {
                    table_size: Some(UInt64Value { value: 65_536 }),
                }),
            ),
            "maglev_lb_config.table_size: 65536 is not a prime up to 5000011",
        ),
        (
            policy(
                LbPolicy::RingHash,
                LbConfig::RingHashLbConfig(RingHashLbConfig {
                    maximum_ring_size: Some(UInt64Value { value: 3 }),
                    ..Default::default()
                }),
            ),
            "ring_hash_lb_config.maximum_ring_size: 3 is not from 1024 to 8388608",
        ),
        (
            policy(
                LbPolicy::RoundRobin,
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                    slow_start_config: Some(SlowStartConfig::default()),
                }),
            ),
            "round_robin_lb_config.slow_start_config: this field changes the meaning and is not supported",
        ),
        (
            cluster::Cluster {
                common_lb_config: Some(CommonLbConfig {
                    healthy_panic_threshold: Some(Percent { value: -1.0 }),
                    ..Default::default()
                }),
                ..named()
            },
            "common_lb_config.healthy_panic_threshold: -1 is not from 0 to 100",
        ),
        (
            cluster::Cluster {
                cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
                    DiscoveryType::LogicalDns.into(),
                )),
                load_assignment: Some(Default::default()),
                ..named()
            },
            "load_assignment: a LOGICAL_DNS cluster has exactly one endpoint",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(refusal(Kind::Cluster, &message), expected);
    }
}

#[test]
fn the_list_of_policies_is_read() {
    use crate::cluster::{Contest, LbPolicy};
    use cluster::load_balancing_policy::Policy;
    use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
    use envoy_types::pb::envoy::extensions::load_balancing_policies as policies;
    use envoy_types::pb::google::protobuf::{UInt32Value, UInt64Value};
    let listed = |config: Any| {
        let message = cluster::Cluster {
            name: "c".into(),
            load_balancing_policy: Some(cluster::LoadBalancingPolicy {
                policies: vec![Policy {
                    typed_extension_config: Some(TypedExtensionConfig {
                        name: "x".into(),
                        typed_config: Some(config),
                    }),
                }],
            }),
            ..Default::default()
        };
        let mut parser = ConfigParser {
            own_certificate: "own".into(),
        };
        let parsed = parser.parse(Kind::Cluster, "x", &any(&message)).unwrap();
        match parsed.value.value {
            Value::Cluster(config) => config.policy,
            _ => panic!("a cluster"),
        }
    };
    let ring = policies::ring_hash::v3::RingHash {
        minimum_ring_size: Some(UInt64Value { value: 7 }),
        hash_function: policies::ring_hash::v3::ring_hash::HashFunction::MurmurHash2.into(),
        ..Default::default()
    };
    let least = |choice_count| policies::least_request::v3::LeastRequest {
        choice_count,
        ..Default::default()
    };
    let cases = [
        (
            any(&policies::round_robin::v3::RoundRobin::default()),
            LbPolicy::RoundRobin,
        ),
        (
            any(&policies::random::v3::Random::default()),
            LbPolicy::Random,
        ),
        (
            any(&policies::maglev::v3::Maglev::default()),
            LbPolicy::Maglev(65_537),
        ),
        (any(&least(None)), LbPolicy::LeastRequest(Contest::Some(2))),
        (
            any(&least(Some(UInt32Value { value: 5 }))),
            LbPolicy::LeastRequest(Contest::Some(5)),
        ),
        (
            any(&ring),
            LbPolicy::RingHash(lb::ring::Settings {
                least: 7,
                function: lb::ring::Function::Murmur2,
                ..Default::default()
            }),
        ),
    ];
    for (config, expected) in cases {
        assert_eq!(listed(config), expected);
    }
}

#[test]
fn routes_are_checked() {
    let host = |domains: &[&str], routes| route::VirtualHost {
        name: "h".into(),
        domains: domains.iter().map(|domain| (*domain).into()).collect(),
        routes,
        ..Default::default()
    };
    let table = |virtual_hosts| route::RouteConfiguration {
        name: "r".into(),
        virtual_hosts,
        ..Default::default()
    };
    let cases = [
        (
            table(vec![host(&["a", "*.b", "c.*", "*"], vec![])]),
            "accepted",
        ),
        (
            table(vec![host(&[], vec![])]),
            "virtual_hosts[0].domains: at least one domain is needed",
        ),
        (
            table(vec![host(&["a*b"], vec![])]),
            "virtual_hosts[0].domains[0]: \"a*b\" has a star in its middle",
        ),
        (
            table(vec![host(&["a"], vec![]), host(&["A"], vec![])]),
            "virtual_hosts: two virtual hosts claim the domain \"a\"",
        ),
        (
            table(vec![host(&["a"], vec![route::Route::default()])]),
            "virtual_hosts[0].routes[0].match: a match is needed",
        ),
        (
            table(vec![host(
                &["a"],
                vec![route::Route {
                    r#match: Some(route::RouteMatch {
                        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
                        ..Default::default()
                    }),
                    action: Some(route::route::Action::Route(route::RouteAction {
                        cluster_specifier: Some(
                            route::route_action::ClusterSpecifier::WeightedClusters(
                                Default::default(),
                            ),
                        ),
                        ..Default::default()
                    })),
                    ..Default::default()
                }],
            )]),
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters: the weights must sum to a positive 32-bit number",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(refusal(Kind::Routes, &message), expected);
    }
}

#[test]
fn a_policy_without_principals_is_refused() {
    let rules = rbac::Rbac {
        policies: [("p".to_owned(), rbac::Policy::default())].into(),
        ..Default::default()
    };
    let refused = super::rbac::rbac(&rules).unwrap_err().to_string();
    assert_eq!(
        refused,
        "policies[\"p\"]: a policy needs permissions and principals"
    );
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let mut parser = ConfigParser {
        own_certificate: "own".into(),
    };
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    for round in 0..20_000u32 {
        let mut bytes = Vec::new();
        for _ in 0..round % 40 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Mostly small field tags and lengths, so that the walk gets somewhere.
            bytes.push(if state & 3 == 0 {
                (state >> 8) as u8
            } else {
                ((state >> 8) % 0x40) as u8
            });
        }
        for kind in Kind::ALL {
            let any = Any {
                type_url: kind.type_url().into(),
                value: bytes.clone(),
            };
            let _ = parser.parse(kind, "x", &any);
        }
    }
}
