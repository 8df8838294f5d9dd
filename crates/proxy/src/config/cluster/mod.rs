//! Clusters and endpoints from protobuf.

mod breaker;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, transport_socket};
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream;
use xds::client::Kind;

use super::http::{h2, requests};
use super::{
    At, Checked, Context, duration, each, extension, ip_address, limit, port_of, refuse,
    socket_address, tls,
};
use crate::cluster::{
    Assignment, ClusterConfig, Discovery, Dns, EndpointConfig, Family, LbPolicy, UpstreamHttp,
};
use crate::tls::UpstreamTls;

/// Envoy's defaults.
const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3600);
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// The key of the HTTP options of a cluster.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

#[allow(deprecated)] // Control planes still send the old fields.
pub(super) fn cluster(message: pb::Cluster, context: &mut Context) -> Checked<ClusterConfig> {
    let policy = match pb::cluster::LbPolicy::try_from(message.lb_policy) {
        Ok(pb::cluster::LbPolicy::RoundRobin | pb::cluster::LbPolicy::ClusterProvided) => {
            LbPolicy::RoundRobin
        }
        Ok(pb::cluster::LbPolicy::LeastRequest) => LbPolicy::LeastRequest,
        Ok(pb::cluster::LbPolicy::Random) => LbPolicy::Random,
        _ => {
            return refuse(
                "only ROUND_ROBIN, LEAST_REQUEST, RANDOM and CLUSTER_PROVIDED are supported",
            )
            .at("lb_policy");
        }
    };
    let options = http_options(&message)?;
    let common = options
        .as_ref()
        .and_then(|o| o.common_http_protocol_options.as_ref());
    let common = common.or(message.common_http_protocol_options.as_ref());
    let discovery = discovery(&message, context)?;
    let per_connection = message
        .max_requests_per_connection
        .map(|limit| u64::from(limit.value));
    Ok(ClusterConfig {
        name: message.name.as_str().into(),
        discovery,
        policy,
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
        .unwrap_or(IDLE),
        thresholds: breaker::thresholds(message.circuit_breakers.as_ref())
            .at("circuit_breakers")?,
        max_requests_per_connection: requests(common).or(per_connection.filter(|limit| *limit > 0)),
    })
}

fn discovery(message: &pb::Cluster, context: &mut Context) -> Checked<Discovery> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match &message.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind),
        None => Ok(DiscoveryType::Static),
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return refuse("not supported").at("cluster_type");
        }
    };
    let load = message.load_assignment.as_ref();
    match kind {
        Ok(DiscoveryType::Static) => {
            let assignment = load.map(assignment).transpose().at("load_assignment")?;
            Ok(Discovery::Static(Arc::new(assignment.unwrap_or_default())))
        }
        Ok(DiscoveryType::Eds) => {
            let named = message
                .eds_cluster_config
                .as_ref()
                .map(|eds| eds.service_name.as_str());
            let name = named
                .filter(|name| !name.is_empty())
                .unwrap_or(&message.name);
            Ok(Discovery::Eds(context.needs(Kind::Endpoints, name)))
        }
        Ok(DiscoveryType::StrictDns | DiscoveryType::LogicalDns) => dns(message, load),
        Ok(DiscoveryType::OriginalDst) => Ok(Discovery::OriginalDestination),
        Err(_) => refuse("an unknown type").at("type"),
    }
}

#[allow(deprecated)]
fn dns(
    message: &pb::Cluster,
    load: Option<&endpoint::ClusterLoadAssignment>,
) -> Checked<Discovery> {
    use pb::cluster::DnsLookupFamily;
    let Some(load) = load else {
        return refuse("is needed").at("load_assignment");
    };
    let localities = each("endpoints", &load.endpoints, |locality| {
        each("lb_endpoints", &locality.lb_endpoints, |entry| {
            let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(found)) =
                &entry.host_identifier
            else {
                return refuse("an endpoint is needed").at("endpoint");
            };
            let socket = socket_address(found.address.as_ref()).at("endpoint.address")?;
            Ok((
                socket.address.clone(),
                port_of(socket).at("endpoint.address.socket_address")?,
                weight(entry),
            ))
        })
    });
    let family = match DnsLookupFamily::try_from(message.dns_lookup_family) {
        Ok(DnsLookupFamily::Auto) => Family::PreferV6,
        Ok(DnsLookupFamily::V4Only) => Family::V4,
        Ok(DnsLookupFamily::V6Only) => Family::V6,
        Ok(DnsLookupFamily::V4Preferred) => Family::PreferV4,
        Ok(DnsLookupFamily::All) => Family::All,
        Err(_) => return refuse("an unknown family").at("dns_lookup_family"),
    };
    let refresh = match &message.dns_refresh_rate {
        // A shorter interval than a second would only burden the resolver.
        Some(rate) => duration(rate)
            .at("dns_refresh_rate")?
            .max(Duration::from_secs(1)),
        None => DNS_REFRESH,
    };
    Ok(Discovery::Dns(Arc::new(Dns {
        hosts: localities
            .at("load_assignment")?
            .into_iter()
            .flatten()
            .collect(),
        refresh,
        respect_ttl: message.respect_dns_ttl,
        family,
    })))
}

pub(super) fn assignment(message: &endpoint::ClusterLoadAssignment) -> Checked<Assignment> {
    let localities = each("endpoints", &message.endpoints, |locality| {
        each("lb_endpoints", &locality.lb_endpoints, |entry| {
            let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(found)) =
                &entry.host_identifier
            else {
                return refuse("an endpoint is needed").at("endpoint");
            };
            let socket = socket_address(found.address.as_ref()).at("endpoint.address")?;
            Ok(EndpointConfig {
                address: ip_address(socket).at("endpoint.address.socket_address")?,
                hostname: found.hostname.clone(),
                weight: weight(entry),
                priority: locality.priority,
                healthy: matches!(
                    HealthStatus::try_from(entry.health_status),
                    Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded)
                ),
            })
        })
    })?;
    Ok(Assignment {
        endpoints: localities.into_iter().flatten().collect(),
    })
}

fn weight(entry: &endpoint::LbEndpoint) -> u32 {
    entry
        .load_balancing_weight
        .map_or(1, |weight| weight.value.max(1))
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
