//! MeshConfig as settings of the mesh.

use std::{sync::Arc, time::Duration};

use api::config::v1alpha2::{ExternalAuthorizationSpec, MeshConfigSpec, TracingSpec};
use model::{
    Authorizer, CLUSTER_DOMAIN, MeshSettings, Problem, Provenance, TlsParameters, Tracing,
};

use crate::index::Index;

/// How long an external verdict may take when the MeshConfig says nothing, as upstream.
const AUTHORIZATION_TIMEOUT: Duration = Duration::from_secs(1);

/// The port of a collector of traces when the MeshConfig says nothing, as upstream.
const TRACING_PORT: u16 = 9411;
/// Its path, likewise.
const TRACING_PATH: &str = "/api/v2/spans";
/// All requests, in ten-thousandths.
const EVERY_REQUEST: u16 = 10_000;

/// The settings; without a MeshConfig nothing is allowed.
pub(crate) fn mesh_settings(
    index: &Index,
    config: Option<&MeshConfigSpec>,
    problems: &mut Vec<Problem>,
) -> MeshSettings {
    let mut settings = MeshSettings {
        trust_domain: index.settings.trust_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let Some(config) = config else {
        let message = "the object does not exist: nothing is allowed";
        problems.push(index.mesh_config_provenance().problem(message));
        return settings;
    };
    settings.permissive = config.traffic.enable_permissive_traffic_policy_mode;
    settings.egress_passthrough = config.traffic.enable_egress;
    settings.refusals_explained = config.observability.enable_debug_server;
    settings.tls = tls(config);
    if let Some(asked) = &config.traffic.inbound_external_authorization
        && asked.enable
    {
        let provenance = index.mesh_config_provenance();
        let provenance = provenance.rule("traffic.inboundExternalAuthorization");
        match authorizer(asked, &provenance, problems) {
            Ok(authorizer) => settings.authorizer = Some(Arc::new(authorizer)),
            Err(message) => {
                // It must judge every request and cannot be asked.
                settings.requests_blocked = !asked.failure_mode_allow;
                problems.push(provenance.problem(message));
            }
        }
    }
    if let Some(asked) = &config.observability.tracing
        && asked.enable
    {
        let provenance = index.mesh_config_provenance();
        let provenance = provenance.rule("observability.tracing");
        let default = format!(
            "jaeger.{}.svc.{CLUSTER_DOMAIN}",
            index.settings.osm_namespace
        );
        settings.tracing = tracing(asked, &default, &provenance, problems).map(Arc::new);
    }
    settings
}

/// The collector; what is not said is as upstream, what makes no sense is reported.
fn tracing(
    asked: &TracingSpec,
    default: &str,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Option<Tracing> {
    let port = match asked.port.map(u16::try_from) {
        None => TRACING_PORT,
        Some(Ok(port @ 1..)) => port,
        Some(_) => {
            let message = "port is not from 1 to 65535: nothing is traced";
            problems.push(provenance.problem(message));
            return None;
        }
    };
    let path = match asked.endpoint.as_str() {
        "" => TRACING_PATH,
        path if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) => path,
        path => {
            let message = format!("endpoint: {path:?} is not a path: {TRACING_PATH:?} is used");
            problems.push(provenance.problem(message));
            TRACING_PATH
        }
    };
    let host = match asked.address.as_str() {
        "" => default,
        address => address,
    };
    let share = asked.sampled_fraction.as_ref().map(share);
    let sampled = match share {
        None => EVERY_REQUEST,
        Some(Some(sampled)) => sampled,
        Some(None) => {
            let message = "sampledFraction is not from 0.0 to 1.0: all requests are traced";
            problems.push(provenance.problem(message));
            EVERY_REQUEST
        }
    };
    Some(Tracing {
        host: host.into(),
        port,
        path: path.into(),
        sampled,
    })
}

/// A fraction in ten-thousandths; osm-edge has it as text, users write numbers, too.
fn share(value: &serde_json::Value) -> Option<u16> {
    let number = match value {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        value => value.as_f64(),
    };
    let number = number.filter(|number| (0.0..=1.0).contains(number))?;
    // From 0 to 10 000, and whole.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let share = (number * f64::from(EVERY_REQUEST)).round() as u16;
    Some(share)
}

fn authorizer(
    asked: &ExternalAuthorizationSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Result<Authorizer, String> {
    let consequence = if asked.failure_mode_allow {
        "as failureModeAllow says, requests pass without a verdict"
    } else {
        "no inbound request is allowed"
    };
    if asked.address.is_empty() {
        return Err(format!("address is empty: {consequence}"));
    }
    let port = asked.port.filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("port is missing: {consequence}"))?;
    let timeout = match asked.timeout.as_str() {
        "" => AUTHORIZATION_TIMEOUT,
        text => api::duration::parse(text).unwrap_or_else(|error| {
            let message = format!("timeout: {error}: {AUTHORIZATION_TIMEOUT:?} is used");
            problems.push(provenance.problem(message));
            AUTHORIZATION_TIMEOUT
        }),
    };
    Ok(Authorizer {
        host: asked.address.as_str().into(),
        port,
        timeout,
        fail_open: asked.failure_mode_allow,
        stat_prefix: match asked.stat_prefix.as_str() {
            "" => "inboundExtAuthz".into(),
            prefix => prefix.into(),
        },
    })
}

fn tls(config: &MeshConfigSpec) -> TlsParameters {
    let defaults = TlsParameters::default();
    let or = |word: &str, default: Arc<str>| -> Arc<str> {
        if word.is_empty() {
            default
        } else {
            word.into()
        }
    };
    TlsParameters {
        minimum: or(&config.sidecar.tls_min_protocol_version, defaults.minimum),
        maximum: or(&config.sidecar.tls_max_protocol_version, defaults.maximum),
        cipher_suites: config.sidecar.cipher_suites.clone(),
        ecdh_curves: config.sidecar.ecdh_curves.clone(),
    }
}
