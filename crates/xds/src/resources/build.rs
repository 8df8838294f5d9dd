//! Small pieces of which resources are built.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, CidrRange, ConfigSource,
            DataSource, GrpcService, Metadata, SocketAddress, TransportSocket, address,
            api_config_source, config_source, data_source, grpc_service, socket_address,
            transport_socket,
        },
        extensions::transport_sockets::tls::v3::{
            CommonTlsContext, SdsSecretConfig, TlsParameters, common_tls_context, tls_parameters,
        },
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher},
    },
    google::protobuf::{Any, BoolValue, Duration, Struct, UInt32Value, Value, value},
};
use ipnet::IpNet;
use model::{Provenance, ProxyConfig};
use prost::{
    Message, Name,
    encoding::{WireType, encode_key, encode_varint},
};

/// Application protocol of connections between proxies: nobody else speaks it by accident.
pub(super) const MESH_ALPN: &str = "osm";

/// Key of our entry in filter metadata.
pub(super) const METADATA: &str = "osm";
/// Field of the entry that says where a thing came from.
pub(super) const ORIGIN: &str = "origin";

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A message of type `M` whose encoding is that of `message` with `value` in field `tag`. For messages
/// with a map of several entries inside, which prost would write in random order.
pub(super) fn any_with_field<M: Message + Name>(message: &M, tag: u32, value: &[u8]) -> Any {
    let mut encoded = message.encode_to_vec();
    append_field(&mut encoded, tag, value);
    Any {
        type_url: M::type_url(),
        value: encoded,
    }
}

pub(super) fn append_field(encoded: &mut Vec<u8>, tag: u32, value: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, encoded);
    encode_varint(value.len() as u64, encoded);
    encoded.extend_from_slice(value);
}

pub(super) fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

pub(super) fn duration(value: std::time::Duration) -> Duration {
    Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn address(ip: &str, port: u16) -> Address {
    socket(ip, port, false)
}

/// All addresses of both families.
pub(super) fn any_address(port: u16) -> Address {
    socket("::", port, true)
}

fn socket(ip: &str, port: u16, ipv4_compat: bool) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            ipv4_compat,
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

pub(super) fn cidr(network: &IpNet) -> CidrRange {
    CidrRange {
        address_prefix: network.network().to_string(),
        prefix_len: number(network.prefix_len().into()),
    }
}

/// The stream that the proxy is served by.
pub(super) fn ads() -> Option<ConfigSource> {
    let source = config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(source),
        ..Default::default()
    })
}

/// Where it came from, for explanations. A single entry: map order would not be stable.
pub(super) fn origin(provenance: &Provenance) -> Option<Metadata> {
    let text = value::Kind::StringValue(provenance.to_string());
    let fields = HashMap::from([(ORIGIN.to_owned(), Value { kind: Some(text) })]);
    Some(Metadata {
        filter_metadata: HashMap::from([(METADATA.to_owned(), Struct { fields })]),
        ..Default::default()
    })
}

/// Lets our proxy explain its refusals to callers of the mesh who ask; an Envoy passes over it.
pub(super) fn explained() -> Metadata {
    let yes = value::Kind::BoolValue(true);
    let fields = HashMap::from([("reason_header".to_owned(), Value { kind: Some(yes) })]);
    Metadata {
        filter_metadata: HashMap::from([(METADATA.to_owned(), Struct { fields })]),
        ..Default::default()
    }
}

pub(super) fn exact(value: &str) -> StringMatcher {
    pattern(string_matcher::MatchPattern::Exact(value.to_owned()))
}

pub(super) fn matching(regex_text: &str) -> StringMatcher {
    pattern(string_matcher::MatchPattern::SafeRegex(regex(regex_text)))
}

fn pattern(pattern: string_matcher::MatchPattern) -> StringMatcher {
    StringMatcher {
        ignore_case: false,
        match_pattern: Some(pattern),
    }
}

/// Matches the whole value, as all of Envoy's regexes do.
pub(super) fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.to_owned(),
        engine_type: None,
    }
}

pub(super) fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    })
}

pub(super) fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: ads(),
    }
}

/// The proxy's own certificate. Its key never leaves the pod, so whoever made it there has it.
fn own_certificate(name: &str) -> SdsSecretConfig {
    let agent = grpc_service::EnvoyGrpc {
        cluster_name: super::OWN_CERTIFICATE_SOURCE.to_owned(),
        ..Default::default()
    };
    let source = ApiConfigSource {
        api_type: api_config_source::ApiType::DeltaGrpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        set_node_on_first_message_only: true,
        grpc_services: vec![GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(agent)),
            ..Default::default()
        }],
        ..Default::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(config_source::ConfigSourceSpecifier::ApiConfigSource(
                source,
            )),
            ..Default::default()
        }),
    }
}

/// A TLS transport socket around this context.
pub(super) fn tls_socket<M: Message + Name>(context: &M) -> Option<TransportSocket> {
    Some(TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(context))),
    })
}

/// Towards servers of the mesh: own certificate, ALPN `osm` by which they choose the chain, servers verified by
/// the secret `trust`.
pub(super) fn mesh_client_tls(config: &ProxyConfig, trust: &str) -> CommonTlsContext {
    CommonTlsContext {
        alpn_protocols: vec![MESH_ALPN.to_owned()],
        ..tls(config, Some(trust))
    }
}

/// Towards clients of the mesh, verified by the secret `trust`. No ALPN is selected: Envoy takes a connection
/// with any selected protocol but `h2` for HTTP/1, without looking at what is spoken.
pub(super) fn mesh_server_tls(config: &ProxyConfig, trust: &str) -> CommonTlsContext {
    tls(config, Some(trust))
}

/// Towards clients outside the mesh: own certificate, the usual ALPNs, clients verified by the secret `trust`
/// if there is one.
pub(super) fn ingress_tls(config: &ProxyConfig, trust: Option<&str>) -> CommonTlsContext {
    CommonTlsContext {
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..tls(config, trust)
    }
}

fn tls(config: &ProxyConfig, trust: Option<&str>) -> CommonTlsContext {
    let validation = trust.map(|trust| {
        common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(sds(trust))
    });
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: version(&config.tls.minimum),
            tls_maximum_protocol_version: version(&config.tls.maximum),
            cipher_suites: config.tls.cipher_suites.clone(),
            ecdh_curves: config.tls.ecdh_curves.clone(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![own_certificate(&config.own_certificate())],
        validation_context_type: validation,
        ..Default::default()
    }
}

fn version(name: &str) -> i32 {
    let version = tls_parameters::TlsProtocol::from_str_name(name);
    version
        .unwrap_or(tls_parameters::TlsProtocol::TlsAuto)
        .into()
}
