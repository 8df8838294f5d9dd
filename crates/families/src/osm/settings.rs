//! MeshConfig as settings of the mesh.

use std::{sync::Arc, time::Duration};

use api::config::v1alpha2::{ExternalAuthorizationSpec, MeshConfigSpec};
use model::{Authorizer, MeshSettings, Problem, Provenance, TlsParameters};

use crate::index::Index;

/// How long an external verdict may take when the MeshConfig says nothing, as upstream.
const AUTHORIZATION_TIMEOUT: Duration = Duration::from_secs(1);

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
    settings
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
