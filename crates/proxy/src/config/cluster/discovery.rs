//! Where endpoints come from, and endpoints, from protobuf.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::value::Kind;
use http::HeaderName;
use xds::client::Kind as Resource;

use super::super::{
    At, Checked, Context, duration, ip_address, port, port_of, refuse, socket_address,
};
use super::subset::labels;
use crate::cluster::{
    Assignment, CheckTarget, Discovery, Dns, DnsHost, EndpointConfig, Family, Locality,
    OVERPROVISIONING, OriginalLb, Reported,
};

/// Envoy's defaults.
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Envoy doubles from the refresh rate on; so quickly that a resolver that is back is found soon.
const DNS_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Priorities a cluster may have; Envoy's own bound.
const PRIORITIES: u32 = 128;

pub(super) fn discovery(message: &pb::Cluster, context: &mut Context) -> Checked<Discovery> {
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
            Ok(Discovery::Eds(context.needs(Resource::Endpoints, name)))
        }
        Ok(DiscoveryType::StrictDns) => dns(message, load, false),
        Ok(DiscoveryType::LogicalDns) => dns(message, load, true),
        Ok(DiscoveryType::OriginalDst) if load.is_some() => {
            refuse("an original destination has no endpoints of its own").at("load_assignment")
        }
        Ok(DiscoveryType::OriginalDst) => Ok(Discovery::OriginalDestination),
        Err(_) => refuse("an unknown type").at("type"),
    }
}

#[allow(deprecated)] // Control planes still send the old fields.
fn dns(
    message: &pb::Cluster,
    load: Option<&endpoint::ClusterLoadAssignment>,
    logical: bool,
) -> Checked<Discovery> {
    use pb::cluster::DnsLookupFamily;
    let Some(load) = load else {
        return refuse("is needed").at("load_assignment");
    };
    let mut hosts = Vec::new();
    let frame = frame(load, |place, found, path| {
        let socket = socket_address(found.address.as_ref()).at(format_args!("{path}.address"))?;
        let port = port_of(socket).at(format_args!("{path}.address.socket_address"))?;
        let name = socket.address.clone();
        let mut endpoint = EndpointConfig {
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            ..place
        };
        if endpoint.hostname.is_empty() {
            endpoint.hostname.clone_from(&name);
        }
        hosts.push(DnsHost { name, endpoint });
        Ok(())
    })
    .at("load_assignment")?;
    if logical && hosts.len() != 1 {
        return refuse("a LOGICAL_DNS cluster has exactly one endpoint").at("load_assignment");
    }
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
    let jitter = message.dns_jitter.as_ref().map(duration).transpose();
    Ok(Discovery::Dns(Arc::new(Dns {
        hosts,
        frame,
        logical,
        refresh,
        respect_ttl: message.respect_dns_ttl,
        retry: retry(message.dns_failure_refresh_rate.as_ref()).at("dns_failure_refresh_rate")?,
        jitter: jitter.at("dns_jitter")?.unwrap_or_default(),
        family,
    })))
}

fn retry(rate: Option<&pb::cluster::RefreshRate>) -> Checked<(Duration, Duration)> {
    let Some(rate) = rate else {
        return Ok(DNS_RETRY);
    };
    let base = match &rate.base_interval {
        Some(base) => duration(base).at("base_interval")?,
        None => return refuse("is needed").at("base_interval"),
    };
    let most = match &rate.max_interval {
        Some(most) => duration(most).at("max_interval")?,
        None => base.saturating_mul(10),
    };
    if base.is_zero() || most < base {
        return refuse("max_interval is less than base_interval, or that is zero");
    }
    Ok((base, most))
}

/// Endpoints whose addresses are known.
pub(in crate::config) fn assignment(
    message: &endpoint::ClusterLoadAssignment,
) -> Checked<Assignment> {
    let mut endpoints = Vec::new();
    let frame = frame(message, |place, found, path| {
        let path = format!("{path}.address");
        let socket = socket_address(found.address.as_ref()).at(&path)?;
        let address = ip_address(socket).at(format_args!("{path}.socket_address"))?;
        endpoints.push(EndpointConfig { address, ..place });
        Ok(())
    })?;
    Ok(Assignment { endpoints, ..frame })
}

/// Walks over the endpoints, each with its place but for its address; yields all the rest.
fn frame(
    message: &endpoint::ClusterLoadAssignment,
    mut each: impl FnMut(EndpointConfig, &endpoint::Endpoint, &str) -> Checked<()>,
) -> Checked<Assignment> {
    let mut localities = Vec::with_capacity(message.endpoints.len());
    for (number, group) in message.endpoints.iter().enumerate() {
        if group.priority > PRIORITIES {
            return refuse(format!("{} is more than {PRIORITIES}", group.priority))
                .at(format_args!("endpoints[{number}].priority"));
        }
        localities.push(locality(group));
        for (index, entry) in group.lb_endpoints.iter().enumerate() {
            let path = format!("endpoints[{number}].lb_endpoints[{index}].endpoint");
            let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(found)) =
                &entry.host_identifier
            else {
                return refuse("an endpoint is needed").at(path);
            };
            let place = EndpointConfig {
                address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                hostname: found.hostname.clone(),
                weight: weight(entry)
                    .at(format_args!("endpoints[{number}].lb_endpoints[{index}]"))?,
                priority: group.priority,
                hash_key: hash_key(entry),
                labels: labels(entry.metadata.as_ref()),
                locality: number,
                health: reported(entry.health_status),
                check: check(found.health_check_config.as_ref())
                    .at(format_args!("{path}.health_check_config"))?,
            };
            each(place, found, &path)?;
        }
    }
    let policy = message.policy.as_ref();
    let drops = policy.map_or(&[][..], |policy| &policy.drop_overloads);
    Ok(Assignment {
        endpoints: Vec::new(),
        localities,
        overprovisioning: match policy.and_then(|policy| policy.overprovisioning_factor) {
            Some(factor) if factor.value == 0 => {
                return refuse("must be more than zero").at("policy.overprovisioning_factor");
            }
            Some(factor) => factor.value,
            None => OVERPROVISIONING,
        },
        drops: drops
            .iter()
            .map(|drop| share(drop.drop_percentage.as_ref()))
            .collect(),
        weighted_health: policy.is_some_and(|policy| policy.weighted_priority_health),
    })
}

fn locality(group: &endpoint::LocalityLbEndpoints) -> Locality {
    let name = group.locality.clone().unwrap_or_default();
    Locality {
        name: [name.region, name.zone, name.sub_zone],
        weight: group.load_balancing_weight.map_or(0, |weight| weight.value),
    }
}

fn weight(entry: &endpoint::LbEndpoint) -> Checked<u32> {
    match entry.load_balancing_weight {
        Some(weight) if weight.value == 0 => {
            refuse("must be more than zero").at("load_balancing_weight")
        }
        Some(weight) => Ok(weight.value),
        None => Ok(1),
    }
}

/// `hash_key` in the metadata of `envoy.lb`.
fn hash_key(entry: &endpoint::LbEndpoint) -> String {
    let metadata = entry.metadata.as_ref();
    let of_lb = metadata.and_then(|metadata| metadata.filter_metadata.get("envoy.lb"));
    let value = of_lb.and_then(|fields| fields.fields.get("hash_key"));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(key)) => key.clone(),
        _ => String::new(),
    }
}

/// How an original destination is found.
pub(super) fn original(message: &pb::Cluster) -> Checked<OriginalLb> {
    let Some(pb::cluster::LbConfig::OriginalDstLbConfig(config)) = &message.lb_config else {
        return Ok(OriginalLb::default());
    };
    let header = match (config.use_http_header, config.http_header_name.as_str()) {
        (false, _) => None,
        (true, "") => Some(HeaderName::from_static("x-envoy-original-dst-host")),
        (true, name) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Some(name),
            Err(_) => {
                return refuse(format!("{name:?} is no header's name")).at("http_header_name");
            }
        },
    };
    let port = config.upstream_port_override.map(|value| port(value.value));
    Ok(OriginalLb {
        header,
        port: port.transpose().at("upstream_port_override")?,
    })
}

fn reported(status: i32) -> Reported {
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Reported::Healthy,
        Ok(HealthStatus::Degraded) => Reported::Degraded,
        Ok(HealthStatus::Draining) => Reported::Draining,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) | Err(_) => Reported::Unhealthy,
    }
}

fn check(message: Option<&endpoint::endpoint::HealthCheckConfig>) -> Checked<CheckTarget> {
    let Some(message) = message else {
        return Ok(CheckTarget::default());
    };
    let address = message.address.as_ref().map(|address| {
        let socket = socket_address(Some(address))?;
        ip_address(socket).at("socket_address")
    });
    let number = port(message.port_value).at("port_value")?;
    let address: Option<SocketAddr> = address.transpose().at("address")?;
    Ok(CheckTarget {
        port: Some(number)
            .filter(|port| *port != 0)
            .or(address.map(|address| address.port())),
        address: address.map(|address| address.ip()),
        hostname: message.hostname.clone(),
        disabled: message.disable_active_health_check,
    })
}

/// In millionths.
fn share(percent: Option<&FractionalPercent>) -> u32 {
    let Some(percent) = percent else {
        return 0;
    };
    let unit = match DenominatorType::try_from(percent.denominator) {
        Ok(DenominatorType::Hundred) | Err(_) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
    };
    percent.numerator.saturating_mul(unit).min(1_000_000)
}
