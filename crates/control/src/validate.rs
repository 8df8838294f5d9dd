//! The validating webhook's rules, with upstream's messages.

use std::collections::BTreeSet;

use api::access::v1alpha3::TrafficTarget;
use api::policy::v1alpha1::{Egress, IngressBackend, IngressSource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admission::{Decide, Request, Verdict};

const HTTP_ROUTE_GROUP: &str = "specs.smi-spec.io/v1alpha4";
const UPSTREAM_TRAFFIC_SETTING: &str = "policy.openservicemesh.io/v1alpha1";

/// Checks policies as they are written.
pub(crate) struct Validator;

// === impl Validator ===

impl Decide for Validator {
    async fn decide(&self, request: Request) -> Verdict {
        match check(&request) {
            Ok(()) => Verdict::Allowed,
            Err(message) => Verdict::Denied(message),
        }
    }
}

fn check(request: &Request) -> Result<(), String> {
    let kind = &request.kind;
    match (
        kind.group.as_str(),
        kind.version.as_str(),
        kind.kind.as_str(),
    ) {
        ("access.smi-spec.io", _, "TrafficTarget") => traffic_target(&read(&request.object)?),
        ("policy.openservicemesh.io", _, "Egress") => egress(&read(&request.object)?),
        ("policy.openservicemesh.io", _, "IngressBackend") => {
            ingress_backend(&read(&request.object)?)
        }
        (group, version, name) => Err(format!("unknown gvk: {group}/{version}, Kind={name}")),
    }
}

fn read<K: DeserializeOwned>(object: &Value) -> Result<K, String> {
    K::deserialize(object).map_err(|error| error.to_string())
}

/// A TrafficTarget grants access to its destination, so only the destination's namespace may hold it.
fn traffic_target(target: &TrafficTarget) -> Result<(), String> {
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

fn egress(egress: &Egress) -> Result<(), String> {
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

fn ingress_backend(ingress: &IngressBackend) -> Result<(), String> {
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

fn is_cidr(text: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(group: &str, version: &str, kind: &str, object: Value) -> Result<(), String> {
        let review = json!({
            "uid": "u",
            "kind": { "group": group, "version": version, "kind": kind },
            "object": object,
        });
        check(&serde_json::from_value(review).unwrap())
    }

    #[test]
    fn acl_06_a_traffic_target_lives_in_its_destinations_namespace() {
        let target = |namespace: &str| {
            json!({
                "metadata": { "name": "t", "namespace": namespace },
                "spec": {
                    "destination": { "kind": "ServiceAccount", "name": "b", "namespace": "server" },
                    "rules": [],
                    "sources": [],
                },
            })
        };
        let check = |object| verdict("access.smi-spec.io", "v1alpha3", "TrafficTarget", object);
        assert_eq!(check(target("server")), Ok(()));
        assert_eq!(
            check(target("client")).unwrap_err(),
            "The traffic target namespace (client) must match spec.Destination.Namespace (server)"
        );
    }

    #[test]
    fn egress_matches_refer_to_known_kinds() {
        let check = |matches: Value| {
            let object = json!({
                "metadata": { "name": "e" },
                "spec": { "sources": [], "ports": [], "matches": matches },
            });
            verdict("policy.openservicemesh.io", "v1alpha1", "Egress", object)
        };
        let entry =
            |group: &str, kind: &str| json!({ "apiGroup": group, "kind": kind, "name": "m" });
        let setting = || entry(UPSTREAM_TRAFFIC_SETTING, "UpstreamTrafficSetting");
        for (matches, message) in [
            (json!([]), None),
            (
                json!([entry(HTTP_ROUTE_GROUP, "HTTPRouteGroup"), setting()]),
                None,
            ),
            (
                json!([entry(HTTP_ROUTE_GROUP, "TCPRoute")]),
                Some("Expected 'matches.kind' for match 'm' to be 'HTTPRouteGroup', got: TCPRoute"),
            ),
            (
                json!([entry(UPSTREAM_TRAFFIC_SETTING, "Egress")]),
                Some(
                    "Expected 'matches.kind' for match 'm' to be 'UpstreamTrafficSetting', got: Egress",
                ),
            ),
            (
                json!([entry("v1", "HTTPRouteGroup")]),
                Some(
                    "Expected 'matches.apiGroup' to be one of [specs.smi-spec.io/v1alpha4 policy.openservicemesh.io/v1alpha1], got: v1",
                ),
            ),
            (
                json!([setting(), setting()]),
                Some("Cannot have more than 1 UpstreamTrafficSetting match"),
            ),
        ] {
            assert_eq!(
                check(matches.clone()).err().as_deref(),
                message,
                "{matches}"
            );
        }
    }

    #[test]
    fn ingress_backends_are_checked_field_by_field() {
        let backend =
            |protocol: &str| json!({ "name": "b", "port": { "number": 80, "protocol": protocol } });
        let source = |kind: &str, name: &str, namespace: &str| json!({ "kind": kind, "name": name, "namespace": namespace });
        let good = || source("Service", "gw", "gateways");
        for (backends, sources, message) in [
            (json!([backend("http")]), json!([good()]), None),
            (
                json!([backend("http"), backend("http")]),
                json!([good()]),
                Some("Duplicate backends"),
            ),
            (json!([backend("tcp")]), json!([good()]), Some("got: tcp")),
            (
                json!([backend("https")]),
                json!([good()]),
                Some("at least one 'AuthenticatedPrincipal`"),
            ),
            (
                json!([backend("https")]),
                json!([source("AuthenticatedPrincipal", "p", "")]),
                None,
            ),
            (
                json!([]),
                json!([source("Service", "gw", "")]),
                Some("'source.namespace' not specified"),
            ),
            (
                json!([]),
                json!([source("Service", "", "x")]),
                Some("'source.name' not specified"),
            ),
            (
                json!([]),
                json!([source("IPRange", "10.0.0.0/8", "")]),
                None,
            ),
            (
                json!([]),
                json!([source("IPRange", "10.0.0.0", "")]),
                Some("Expected CIDR notation"),
            ),
            (
                json!([]),
                json!([source("IPRange", "10.0.0.0/33", "")]),
                Some("Expected CIDR notation"),
            ),
            (
                json!([]),
                json!([source("Pod", "x", "")]),
                Some("Must be one of"),
            ),
        ] {
            let object = json!({ "metadata": { "name": "i" }, "spec": { "backends": backends, "sources": sources } });
            let got = verdict(
                "policy.openservicemesh.io",
                "v1alpha1",
                "IngressBackend",
                object.clone(),
            );
            match message {
                None => assert_eq!(got, Ok(()), "{object}"),
                Some(part) => assert!(got.clone().unwrap_err().contains(part), "{object}: {got:?}"),
            }
        }
    }

    #[test]
    fn kinds_we_did_not_ask_for_are_refused() {
        assert_eq!(
            verdict("x", "v1", "Y", json!({})).unwrap_err(),
            "unknown gvk: x/v1, Kind=Y"
        );
    }
}
