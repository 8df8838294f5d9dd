//! MeshConfig as settings of the mesh.

use std::sync::Arc;

use api::config::v1alpha2::MeshConfigSpec;
use model::{MeshSettings, Problem, Provenance, TlsParameters};

use crate::index::{Index, Store};

/// The settings; without a MeshConfig nothing is allowed.
pub(crate) fn mesh_settings(index: &Index, problems: &mut Vec<Problem>) -> MeshSettings {
    let mut settings = MeshSettings {
        trust_domain: index.settings.trust_domain.as_str().into(),
        ..MeshSettings::default()
    };
    let Some(config) = &index.mesh_config else {
        let message = "the object does not exist: nothing is allowed";
        problems.push(index.mesh_config_provenance().problem(message));
        return settings;
    };
    settings.permissive = config.traffic.enable_permissive_traffic_policy_mode;
    settings.egress_passthrough = config.traffic.enable_egress;
    settings.tls = tls(config);
    let authorizer = config.traffic.inbound_external_authorization.as_ref();
    if let Some(authorizer) = authorizer.filter(|authorizer| authorizer.enable) {
        settings.requests_blocked = !authorizer.failure_mode_allow;
        let provenance = index.mesh_config_provenance();
        let provenance = provenance.rule("traffic.inboundExternalAuthorization");
        let message = if settings.requests_blocked {
            "not supported yet: as it must judge every inbound request, none is allowed"
        } else {
            "not supported yet: as failureModeAllow says, requests pass without it"
        };
        problems.push(provenance.problem(message));
    }
    settings
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

/// Names the objects of kinds that have no effect yet, lest anybody relies on them.
pub(crate) fn unsupported(index: &Index, problems: &mut Vec<Problem>) {
    let mut report = |kind: &str, store: &Store<()>, enabled: bool| {
        for ((namespace, name), ()) in index.monitored(store).filter(|_| enabled) {
            let provenance = Provenance::new(kind, namespace, name);
            problems.push(provenance.problem("the kind is not supported yet: no effect"));
        }
    };
    let flags = index
        .mesh_config
        .as_ref()
        .map(|config| &config.feature_flags);
    let retry = flags.is_some_and(|flags| flags.enable_retry_policy);
    report("Retry", &index.retries, retry);
    report("UpstreamTrafficSetting", &index.upstream_settings, true);
}
