//! What upstream's validators refuse, in upstream's words.

use std::collections::BTreeSet;

use api::access::v1alpha3::TrafficTarget;
use api::policy::v1alpha1::{
    Egress, HttpLocalRateLimit, IngressBackend, IngressSource, UpstreamTrafficSetting,
};

pub(super) const HTTP_ROUTE_GROUP: &str = "specs.smi-spec.io/v1alpha4";
pub(super) const UPSTREAM_TRAFFIC_SETTING: &str = "policy.openservicemesh.io/v1alpha1";

/// Where the list of status codes is that a proxy may answer with.
const STATUS_CODES: &str = "https://www.envoyproxy.io/docs/envoy/latest/api-v3/type/v3/http_status.proto#enum-type-v3-statuscode";

/// A TrafficTarget grants access to its destination, so only the destination's namespace may hold it.
pub(super) fn traffic_target(target: &TrafficTarget) -> Result<(), String> {
    let namespace = target.metadata.namespace.as_deref().unwrap_or_default();
    let destination = target
        .spec
        .destination
        .namespace
        .as_deref()
        .unwrap_or_default();
    if namespace == destination {
        return Ok(());
    }
    Err(format!(
        "The traffic target namespace ({namespace}) must match spec.Destination.Namespace ({destination})"
    ))
}

pub(super) fn egress(egress: &Egress) -> Result<(), String> {
    let mut settings = 0;
    for entry in &egress.spec.matches {
        let (name, kind) = (&entry.name, &entry.kind);
        let expected = match entry.api_group.as_str() {
            HTTP_ROUTE_GROUP => "HTTPRouteGroup",
            UPSTREAM_TRAFFIC_SETTING => {
                settings += 1;
                "UpstreamTrafficSetting"
            }
            other => {
                return Err(format!(
                    "Expected 'matches.apiGroup' to be one of [{HTTP_ROUTE_GROUP} {UPSTREAM_TRAFFIC_SETTING}], got: {other}"
                ));
            }
        };
        if kind != expected {
            return Err(format!(
                "Expected 'matches.kind' for match '{name}' to be '{expected}', got: {kind}"
            ));
        }
    }
    if settings > 1 {
        return Err("Cannot have more than 1 UpstreamTrafficSetting match".to_owned());
    }
    Ok(())
}

pub(super) fn ingress_backend(ingress: &IngressBackend) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for backend in &ingress.spec.backends {
        let (name, port) = (&backend.name, backend.port.number);
        if !seen.insert((name, port)) {
            return Err(format!(
                "Duplicate backends detected with service name: {name} and port: {port}"
            ));
        }
        match backend.port.protocol.to_ascii_lowercase().as_str() {
            "http" | "grpc" => {}
            "https" => {
                // Upstream's condition is the inverse of its message; the message is what is meant.
                let validates = !backend
                    .tls
                    .as_ref()
                    .is_some_and(|tls| tls.skip_client_cert_validation);
                let named = ingress
                    .spec
                    .sources
                    .iter()
                    .any(|source| source.kind == "AuthenticatedPrincipal");
                if validates && !named {
                    return Err("HTTPS ingress with client certificate validation enabled must specify at least one 'AuthenticatedPrincipal` source".to_owned());
                }
            }
            _ => {
                let protocol = &backend.port.protocol;
                return Err(format!(
                    "Expected 'port.protocol' to be 'http', 'https' or 'grpc', got: {protocol}"
                ));
            }
        }
    }
    ingress.spec.sources.iter().try_for_each(ingress_source)
}

fn ingress_source(source: &IngressSource) -> Result<(), String> {
    let IngressSource {
        kind,
        name,
        namespace,
        ..
    } = source;
    match kind.as_str() {
        "Service" | "AuthenticatedPrincipal" if name.is_empty() => {
            Err(format!("'source.name' not specified for source kind {kind}"))
        }
        "Service" if namespace.is_empty() => {
            Err("'source.namespace' not specified for source kind Service".to_owned())
        }
        "Service" | "AuthenticatedPrincipal" => Ok(()),
        "IPRange" if is_cidr(name) => Ok(()),
        "IPRange" => Err(format!(
            "Invalid 'source.name' value specified for IPRange. Expected CIDR notation 'a.b.c.d/x', got '{name}'"
        )),
        _ => Err("Invalid 'source.kind' value specified. Must be one of: Service, AuthenticatedPrincipal, IPRange".to_owned()),
    }
}

/// An address and the length of its prefix, as Go reads it: IPv4 and IPv6.
pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        return false;
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    length.bytes().all(|b| b.is_ascii_digit())
        && length.parse::<u8>().is_ok_and(|length| length <= bits)
}

/// Upstream wrote this check and never had it called (VAL-08).
pub(super) fn upstream_traffic_setting(setting: &UpstreamTrafficSetting) -> Result<(), String> {
    let spec = &setting.spec;
    if spec
        .host
        .split('.')
        .filter(|label| !label.is_empty())
        .count()
        < 2
    {
        return Err("invalid FQDN specified as host".to_owned());
    }
    let service = spec
        .rate_limit
        .iter()
        .filter_map(|rate| rate.local.as_ref());
    let service = service.filter_map(|local| local.http.as_ref());
    let routes = spec
        .http_routes
        .iter()
        .filter_map(|route| route.rate_limit.as_ref());
    let routes = routes.filter_map(|rate| rate.local.as_ref());
    let global = spec
        .rate_limit
        .iter()
        .filter_map(|rate| rate.global.as_ref());
    let global = global.filter_map(|global| global.http.as_ref());
    let codes = service
        .chain(routes)
        .filter_map(|limit: &HttpLocalRateLimit| limit.response_status_code)
        .chain(global.filter_map(|limit| limit.response_status_code));
    for code in codes {
        if !is_status(code) {
            return Err(format!(
                "Invalid responseStatusCode {code}. See {STATUS_CODES}"
            ));
        }
    }
    Ok(())
}

/// Whether it is one of the failures in Envoy's `type.v3.StatusCode`.
fn is_status(code: u16) -> bool {
    matches!(code, 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511)
}
