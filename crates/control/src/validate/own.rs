//! What can never mean anything, and upstream accepts: refused with object and field. And what has no effect here.

use std::fmt::Display;

use api::config::v1alpha2::{MeshConfig, MeshConfigSpec};
use api::policy::v1alpha1::{RetrySpec, UpstreamTrafficSettingSpec};
use api::specs::v1alpha4::TCPRouteSpec;
use api::split::v1alpha4::TrafficSplitSpec;
use families::Object;
use serde_json::Value;

use crate::gateway::GatewayCertificate;

/// TLS versions in their order; `TLS_AUTO` is any.
const TLS_VERSIONS: [&str; 4] = ["TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"];

/// Fields of the MeshConfig that nobody reads here, by section and name.
const WITHOUT_EFFECT: [(&str, &str); 20] = [
    ("sidecar", "sidecarDisabledMTLS"),
    ("sidecar", "sidecarTimeout"),
    ("sidecar", "localDNSProxy"),
    ("sidecar", "configResyncInterval"),
    ("traffic", "http1PerRequestLoadBalancing"),
    ("traffic", "http2PerRequestLoadBalancing"),
    ("observability", "remoteLogging"),
    ("repoServer", ""),
    ("clusterSet", ""),
    ("pluginChains", ""),
    ("featureFlags", "enableWASMStats"),
    ("featureFlags", "enableMulticlusterMode"),
    ("featureFlags", "enableSnapshotCacheMode"),
    ("featureFlags", "enableAsyncProxyServiceMapping"),
    ("featureFlags", "enableEnvoyActiveHealthChecks"),
    ("featureFlags", "enableSidecarActiveHealthChecks"),
    ("featureFlags", "enableMeshRootCertificate"),
    ("featureFlags", "enableAccessControlPolicy"),
    ("featureFlags", "enableAccessCertPolicy"),
    ("featureFlags", "enablePluginPolicy"),
];

/// `<path>: Invalid value: <value>: <why>`, as the API server writes it.
fn invalid(path: impl Display, value: impl Display, why: impl Display) -> String {
    format!("{path}: Invalid value: {value}: {why}")
}

pub(super) fn traffic_split(spec: &TrafficSplitSpec) -> Result<(), String> {
    for (index, backend) in spec.backends.iter().enumerate() {
        if !(backend.weight >= 0.0 && backend.weight.is_finite()) {
            let path = format!("spec.backends[{index}].weight");
            return Err(invalid(path, backend.weight, "must not be negative"));
        }
    }
    Ok(())
}

pub(super) fn tcp_route(spec: &TCPRouteSpec) -> Result<(), String> {
    for (index, port) in spec.matches.ports.iter().enumerate() {
        if !(1..=65535).contains(port) {
            let path = format!("spec.matches.ports[{index}]");
            return Err(invalid(path, port, "must be between 1 and 65535"));
        }
    }
    Ok(())
}

pub(super) fn retry(spec: &RetrySpec) -> Result<(), String> {
    let policy = &spec.retry_policy;
    if u32::try_from(policy.num_retries).is_err() {
        let why = "must be between 0 and 4294967295";
        return Err(invalid(
            "spec.retryPolicy.numRetries",
            policy.num_retries,
            why,
        ));
    }
    duration("spec.retryPolicy.perTryTimeout", &policy.per_try_timeout)?;
    duration(
        "spec.retryPolicy.retryBackoffBaseInterval",
        &policy.retry_backoff_base_interval,
    )
}

pub(super) fn upstream_traffic_setting(spec: &UpstreamTrafficSettingSpec) -> Result<(), String> {
    let settings = spec.connection_settings.as_ref();
    let tcp = settings.and_then(|settings| settings.tcp.as_ref());
    if let Some(timeout) = tcp.and_then(|tcp| tcp.connect_timeout.as_deref()) {
        duration("spec.connectionSettings.tcp.connectTimeout", timeout)?;
    }
    let http = settings.and_then(|settings| settings.http.as_ref());
    let Some(breaker) = http.and_then(|http| http.circuit_breaking.as_ref()) else {
        return Ok(());
    };
    for (name, text) in [
        ("statTimeWindow", &breaker.stat_time_window),
        ("degradedTimeWindow", &breaker.degraded_time_window),
        ("slowTimeThreshold", &breaker.slow_time_threshold),
    ] {
        let path = format!("spec.connectionSettings.http.circuitBreaking.{name}");
        duration(&path, text.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

/// What would stop all sidecars, or all new pods.
pub(super) fn mesh_config(spec: &MeshConfigSpec) -> Result<(), String> {
    let traffic = &spec.traffic;
    for (name, list) in [
        (
            "outboundIPRangeExclusionList",
            &traffic.outbound_ip_range_exclusion_list,
        ),
        (
            "outboundIPRangeInclusionList",
            &traffic.outbound_ip_range_inclusion_list,
        ),
    ] {
        for (index, range) in list.iter().enumerate() {
            if !super::upstream::is_cidr(range) {
                let path = format!("spec.traffic.{name}[{index}]");
                return Err(invalid(path, format!("{range:?}"), "must be a CIDR"));
            }
        }
    }
    let sidecar = &spec.sidecar;
    let rank = |word: &str| TLS_VERSIONS.iter().position(|version| *version == word);
    let (low, high) = (
        &sidecar.tls_min_protocol_version,
        &sidecar.tls_max_protocol_version,
    );
    if let (Some(lowest), Some(highest)) = (rank(low), rank(high))
        && lowest > highest
    {
        let why = format!("must not be above tlsMaxProtocolVersion {high}");
        return Err(invalid("spec.sidecar.tlsMinProtocolVersion", low, why));
    }
    if sidecar.max_data_plane_connections < 0 {
        let value = sidecar.max_data_plane_connections;
        let path = "spec.sidecar.maxDataPlaneConnections";
        return Err(invalid(path, value, "must not be negative"));
    }
    Ok(())
}

/// Go's notation; nothing is the default.
fn duration(path: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let parsed = api::duration::parse(text);
    parsed
        .map(drop)
        .map_err(|why| invalid(path, format!("{text:?}"), why))
}

/// What the author is to know of the object alone. Of fields without effect only those are named that this write
/// sets: a MeshConfig is patched often, and its presets are not the author's words.
pub(super) fn warnings(object: &Object, old: Option<&Value>) -> Vec<String> {
    let config = match object {
        Object::MeshConfig(config) => config,
        // Legal, and more than its author may have meant (ING-11).
        Object::IngressBackend(ingress) if ingress.spec.sources.is_empty() => {
            return vec!["spec.sources is empty: the backends are open to every client".to_owned()];
        }
        _ => return Vec::new(),
    };
    let mut warnings = Vec::new();
    let spec = &config.spec;
    if let Some(certificate) = &spec.certificate {
        let text = &certificate.service_cert_validity_duration;
        if !api::duration::parse(text).is_ok_and(|validity| !validity.is_zero()) {
            warnings.push(format!(
                "spec.certificate.serviceCertValidityDuration: {text:?} is not a duration: 24h is used"
            ));
        }
    }
    warnings.extend(GatewayCertificate::new(spec).err());
    warnings.extend(without_effect(config, old));
    warnings
}

fn without_effect(config: &MeshConfig, old: Option<&Value>) -> Vec<String> {
    // An object is created from the preset, whose every field is there.
    let Some(old) = old.filter(|old| old.is_object()) else {
        return Vec::new();
    };
    let (new, old) = (
        written(&config.spec),
        old.get("spec").cloned().unwrap_or_default(),
    );
    let field = |spec: &Value, section: &str, name: &str| {
        let section = spec.get(section)?;
        let field = if name.is_empty() {
            Some(section)
        } else {
            section.get(name)
        };
        field.filter(|value| !is_nothing(value)).cloned()
    };
    WITHOUT_EFFECT
        .iter()
        .filter(|(section, name)| {
            let now = field(&new, section, name);
            now.is_some() && now != field(&old, section, name)
        })
        .map(|(section, name)| {
            let dot = if name.is_empty() { "" } else { "." };
            format!("spec.{section}{dot}{name} has no effect with this release's sidecars")
        })
        .collect()
}

fn written(spec: &MeshConfigSpec) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

/// What is the same as leaving it out.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0s",
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(spec: Value) -> MeshConfig {
        serde_json::from_value(json!({ "metadata": { "name": "c" }, "spec": spec })).unwrap()
    }

    #[test]
    fn what_can_never_mean_anything_is_refused_with_its_field() {
        let split = |weight: f64| {
            let spec = json!({ "service": "a", "backends": [{ "service": "b", "weight": 1 }, { "service": "c", "weight": weight }] });
            traffic_split(&serde_json::from_value(spec).unwrap())
        };
        let route = |port: i64| {
            tcp_route(
                &serde_json::from_value(json!({ "matches": { "ports": [80, port] } })).unwrap(),
            )
        };
        let retry = |timeout: &str, times: i64| {
            let subject = json!({ "kind": "Service", "name": "a", "namespace": "b" });
            let spec = json!({
                "source": subject, "destinations": [subject],
                "retryPolicy": { "retryOn": "5xx", "perTryTimeout": timeout, "numRetries": times, "retryBackoffBaseInterval": "1s" },
            });
            retry(&serde_json::from_value(spec).unwrap())
        };
        let breaker = |window: &str| {
            let spec = json!({ "host": "a.b", "connectionSettings": { "http": { "circuitBreaking": { "statTimeWindow": window } } } });
            upstream_traffic_setting(&serde_json::from_value(spec).unwrap())
        };
        let mesh = |spec: Value| mesh_config(&config(spec).spec);
        let range =
            |range: &str| mesh(json!({ "traffic": { "outboundIPRangeExclusionList": [range] } }));
        let tls = |low: &str, high: &str| {
            mesh(
                json!({ "sidecar": { "tlsMinProtocolVersion": low, "tlsMaxProtocolVersion": high } }),
            )
        };
        for (result, field) in [
            (split(0.5), ""),
            (split(-1.0), "spec.backends[1].weight"),
            (route(65535), ""),
            (route(0), "spec.matches.ports[1]"),
            (route(65536), "spec.matches.ports[1]"),
            (route(-1), "spec.matches.ports[1]"),
            (retry("1s", 0), ""),
            (retry("soon", 0), "spec.retryPolicy.perTryTimeout"),
            (retry("1s", -1), "spec.retryPolicy.numRetries"),
            (breaker("1m"), ""),
            (
                breaker("1"),
                "spec.connectionSettings.http.circuitBreaking.statTimeWindow",
            ),
            (range("10.0.0.0/8"), ""),
            (
                range("x10.0.0.0/99"),
                "spec.traffic.outboundIPRangeExclusionList[0]",
            ),
            (tls("TLSv1_2", "TLSv1_3"), ""),
            (tls("TLS_AUTO", "TLSv1_0"), ""),
            (
                tls("TLSv1_3", "TLSv1_2"),
                "spec.sidecar.tlsMinProtocolVersion",
            ),
        ] {
            match result {
                Ok(()) => assert_eq!(field, ""),
                Err(message) => assert!(
                    !field.is_empty() && message.starts_with(&format!("{field}: Invalid value: ")),
                    "{message}, not {field}"
                ),
            }
        }
    }

    #[test]
    fn only_fields_that_this_write_sets_are_warned_of() {
        let preset = json!({ "spec": { "sidecar": { "configResyncInterval": "0s" }, "featureFlags": { "enableWASMStats": true } } });
        let warned = |spec: Value, old: Option<&Value>| warnings(&config(spec).into(), old);
        let same = preset["spec"].clone();
        assert_eq!(warned(same.clone(), Some(&preset)), Vec::<String>::new());
        assert_eq!(warned(same, None), Vec::<String>::new());
        let set = json!({
            "sidecar": { "sidecarTimeout": 60 }, "pluginChains": { "inbound-tcp": [] },
            "repoServer": { "ipaddr": "10.0.0.1" }, "featureFlags": { "enableWASMStats": true },
            "certificate": { "serviceCertValidityDuration": "soon", "certKeyBitSize": 2048 },
        });
        let warned = warned(set, Some(&preset));
        assert!(
            warned[0].contains("serviceCertValidityDuration: \"soon\""),
            "{warned:?}"
        );
        assert!(
            warned[1].starts_with("spec.sidecar.sidecarTimeout has no effect"),
            "{warned:?}"
        );
        assert!(
            warned[2].starts_with("spec.repoServer has no effect"),
            "{warned:?}"
        );
        assert_eq!(warned.len(), 3, "{warned:?}");
    }
}
