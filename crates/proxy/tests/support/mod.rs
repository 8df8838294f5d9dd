//! Proxies without a control plane: resources in, sockets on loopback out.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod calls;
pub mod peers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::{
    rbac::v3 as http_rbac, router::v3::Router,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as Discovered,
};
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::{BoolValue, Duration as PbDuration};
use parking_lot::Mutex;
use prost::{Message, Name};
use proxy::access::AccessLog;
use proxy::cluster::Upkeep;
use proxy::config::{ConfigParser, Resource};
use proxy::listeners::Listeners;
use proxy::snapshot::{Builder, drain_removed};
use proxy::stats::Stats;
use proxy::tls::OwnCertificate;
use proxy::worker::Shared;
use rustls::sign::CertifiedKey;
use tokio::runtime::Handle;
use xds::client::{Any, Kind, Limits, Machine, Mode};

pub const OWN: &str = "service-cert:ns/sa";

pub fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

pub struct Proxy {
    pub shared: Arc<Shared>,
    pub machine: Machine<Resource>,
    pub listeners: Mutex<Listeners>,
    builder: Builder,
    upkeep: Upkeep,
}

impl Proxy {
    pub fn new(own: Option<Arc<CertifiedKey>>) -> Proxy {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let certificate = Arc::new(OwnCertificate::default());
        if let Some(own) = own {
            certificate.replace(own);
        }
        let stats = Arc::new(Stats::default());
        let shared = Arc::new(Shared::new(
            stats.clone(),
            AccessLog::off(stats),
            certificate.clone(),
            1000,
        ));
        Proxy {
            machine: Machine::new(Mode::Delta, Limits::default()),
            listeners: Mutex::new(Listeners::new(shared.clone(), vec![Handle::current()])),
            builder: Builder {
                own: certificate,
                workers: 1,
            },
            upkeep: Upkeep::new(),
            shared,
        }
    }

    /// Takes resources in and applies them; nothing may be refused.
    pub fn push(&mut self, kind: Kind, resources: Vec<(&str, Any)>, removed: &[&str]) {
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            nonce: "n".into(),
            resources: resources
                .into_iter()
                .map(|(name, any)| Discovered {
                    name: name.into(),
                    version: "1".into(),
                    resource: Some(any),
                    ..Default::default()
                })
                .collect(),
            removed_resources: removed.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        };
        let mut parser = ConfigParser {
            own_certificate: OWN.into(),
        };
        let outcome = self.machine.receive(response, &mut parser, Instant::now());
        assert_eq!(outcome.rejected, []);
        let old = self.shared.snapshot.load_full();
        let new = Arc::new(self.builder.build(&self.machine, &old));
        self.upkeep.apply(&new);
        self.shared.snapshot.store(new.clone());
        self.listeners.lock().apply(&new);
        drain_removed(&old, &new);
    }

    /// All counters but those of clusters, as `/stats` shows them.
    pub fn stats(&self) -> String {
        let mut samples = proxy::stats::Samples::default();
        self.shared.stats.sample(&mut samples);
        proxy::stats::plain(&samples.0)
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        self.listeners.lock().bound()[listener][0]
    }
}

/// Polls until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub struct Authority(pub ca::Authority);

impl Authority {
    pub fn new() -> Authority {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Authority(ca::Authority::generate(SystemTime::now()).unwrap())
    }

    pub fn leaf(&self, service_account: &str) -> Arc<CertifiedKey> {
        let identity = ca::Identity::new("cluster.local", service_account, "ns").unwrap();
        let key = ca::PrivateKey::generate().unwrap();
        let csr = key.signing_request(&identity).unwrap();
        let chain = self
            .0
            .sign_request(
                &csr,
                &identity,
                Duration::from_secs(3600),
                SystemTime::now(),
            )
            .unwrap();
        let chain: Vec<_> = chain
            .iter()
            .flat_map(|pem| ca::parse_certificates(pem).unwrap())
            .take(1)
            .collect();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Arc::new(CertifiedKey::from_der(chain, key.to_rustls(), &provider).unwrap())
    }

    pub fn validation(&self, names: &[&str]) -> tls::CertificateValidationContext {
        tls::CertificateValidationContext {
            trusted_ca: Some(core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(
                    self.0.certificate_pem().to_owned(),
                )),
                ..Default::default()
            }),
            match_typed_subject_alt_names: names
                .iter()
                .map(|name| tls::SubjectAltNameMatcher {
                    san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
                    matcher: Some(exact(name)),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    pub fn common(&self, names: &[&str]) -> tls::CommonTlsContext {
        tls::CommonTlsContext {
            alpn_protocols: vec!["osm".into()],
            tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig {
                name: OWN.into(),
                ..Default::default()
            }],
            validation_context_type: Some(
                tls::common_tls_context::ValidationContextType::ValidationContext(
                    self.validation(names),
                ),
            ),
            ..Default::default()
        }
    }
}

pub fn exact(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text.into())),
        ..Default::default()
    }
}

pub fn socket(name: &str, config: Any) -> core::TransportSocket {
    core::TransportSocket {
        name: name.into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

pub fn address(at: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                at.port().into(),
            )),
            ..Default::default()
        })),
    }
}

pub fn assignment(name: &str, at: &[SocketAddr]) -> endpoint::ClusterLoadAssignment {
    let lb_endpoints = at.iter().map(|at| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(address(*at)),
                ..Default::default()
            },
        )),
        ..Default::default()
    });
    endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: lb_endpoints.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Which HTTP a cluster of the test speaks.
#[derive(Clone, Copy)]
pub enum Http {
    One,
    Two,
    Downstream,
}

pub fn static_cluster(name: &str, at: &[SocketAddr], http: Http) -> cluster::Cluster {
    use upstream::http_protocol_options as options;
    let options = match http {
        Http::One => {
            options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
                protocol_config: Some(
                    options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                        Default::default(),
                    ),
                ),
            })
        }
        Http::Two => {
            options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig {
                protocol_config: Some(
                    options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                        Default::default(),
                    ),
                ),
            })
        }
        Http::Downstream => {
            options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(Default::default())
        }
    };
    let options = upstream::HttpProtocolOptions {
        upstream_protocol_options: Some(options),
        ..Default::default()
    };
    cluster::Cluster {
        name: name.into(),
        connect_timeout: Some(PbDuration {
            seconds: 5,
            nanos: 0,
        }),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        )),
        load_assignment: Some(assignment(name, at)),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            any(&options),
        )]
        .into(),
        ..Default::default()
    }
}

pub fn mesh_cluster(
    name: &str,
    at: SocketAddr,
    http: Http,
    ca: &Authority,
    peers: &[&str],
) -> cluster::Cluster {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(ca.common(peers)),
        sni: "web.ns.svc.cluster.local".into(),
        ..Default::default()
    };
    cluster::Cluster {
        transport_socket: Some(socket("tls", any(&context))),
        ..static_cluster(name, &[at], http)
    }
}

/// A network filter of the configuration.
pub fn network_filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: name.into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

pub fn tcp_chain(cluster: &str) -> listener::FilterChain {
    let proxy = tcp::TcpProxy {
        cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    listener::FilterChain {
        name: "tcp".into(),
        filters: vec![network_filter("tcp", any(&proxy))],
        ..Default::default()
    }
}

/// An HTTP filter of the configuration.
pub fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

pub fn http_chain(routes: &str, rules: Option<rbac::Rbac>) -> listener::FilterChain {
    let rules = rules.map(|rules| {
        let config = http_rbac::Rbac {
            rules: Some(rules),
            ..Default::default()
        };
        http_filter("envoy.filters.http.rbac", any(&config))
    });
    filtered_chain(routes, rules.into_iter().collect())
}

/// A chain with these filters before the router.
pub fn filtered_chain(routes: &str, filters: Vec<hcm::HttpFilter>) -> listener::FilterChain {
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "test".into(),
        http_filters: filters
            .into_iter()
            .chain([http_filter("router", any(&Router::default()))])
            .collect(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(
            hcm::Rds {
                route_config_name: routes.into(),
                ..Default::default()
            },
        )),
        upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..Default::default()
        }],
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            allow_connect: true,
            ..Default::default()
        }),
        normalize_path: Some(BoolValue { value: true }),
        ..Default::default()
    };
    listener::FilterChain {
        name: "http".into(),
        filters: vec![network_filter("hcm", any(&manager))],
        ..Default::default()
    }
}

pub fn with_mtls(mut chain: listener::FilterChain, ca: &Authority) -> listener::FilterChain {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(ca.common(&[])),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    chain.transport_socket = Some(socket("tls", any(&context)));
    chain.filter_chain_match = Some(listener::FilterChainMatch {
        transport_protocol: "tls".into(),
        server_names: vec!["web.ns.svc.cluster.local".into()],
        application_protocols: vec!["osm".into()],
        ..Default::default()
    });
    chain
}

pub fn listener(
    name: &str,
    chains: Vec<listener::FilterChain>,
    inspect_tls: bool,
) -> listener::Listener {
    use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
    let inspector = listener::ListenerFilter {
        name: "tls_inspector".into(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            &TlsInspector::default(),
        ))),
        ..Default::default()
    };
    listener::Listener {
        name: name.into(),
        address: Some(address("127.0.0.1:0".parse().unwrap())),
        filter_chains: chains,
        listener_filters: inspect_tls.then_some(inspector).into_iter().collect(),
        listener_filters_timeout: Some(PbDuration {
            seconds: 5,
            nanos: 0,
        }),
        ..Default::default()
    }
}

pub fn routes(name: &str, list: Vec<(&str, &str)>) -> route::RouteConfiguration {
    let routes = list.into_iter().map(|(regex, cluster)| route::Route {
        name: format!("route {regex}"),
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::SafeRegex(
                matcher::RegexMatcher {
                    regex: regex.into(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
                cluster.into(),
            )),
            timeout: Some(PbDuration::default()),
            ..Default::default()
        })),
        ..Default::default()
    });
    route::RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![route::VirtualHost {
            name: "web".into(),
            domains: vec!["web.ns".into(), "web.ns:80".into()],
            routes: routes.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Allows one identity, on paths that match.
pub fn allow(principal: &str, path: &str) -> rbac::Rbac {
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission {
            rule: Some(rbac::permission::Rule::UrlPath(matcher::PathMatcher {
                rule: Some(matcher::path_matcher::Rule::Path(matcher::StringMatcher {
                    match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(
                        matcher::RegexMatcher {
                            regex: path.into(),
                            ..Default::default()
                        },
                    )),
                    ..Default::default()
                })),
            })),
        }],
        principals: vec![rbac::Principal {
            identifier: Some(rbac::principal::Identifier::Authenticated(
                rbac::principal::Authenticated {
                    principal_name: Some(exact(principal)),
                },
            )),
        }],
        ..Default::default()
    };
    rbac::Rbac {
        policies: [("TrafficTarget ns/t".to_owned(), policy)].into(),
        ..Default::default()
    }
}
