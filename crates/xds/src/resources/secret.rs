//! Validation contexts: which certificates are accepted from peers.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SubjectAltNameMatcher, secret, subject_alt_name_matcher,
};
use model::ProxyConfig;

use super::{TrustBundle, build};

/// All validation contexts of a proxy. Its own certificate is not among them: it has the key itself.
pub(super) fn secrets(config: &ProxyConfig, trust: &TrustBundle) -> Vec<Secret> {
    let servers = config.trust.values().map(|peers| {
        let names = peers.names.iter().map(|name| uri(name)).collect();
        validation(&peers.name, servers_named(config, names), trust)
    });
    // Any identity of the mesh may knock; who is let in is decided by RBAC.
    let clients = config
        .inbound
        .iter()
        .map(|inbound| validation(&inbound.trust, Vec::new(), trust));
    servers.chain(clients).collect()
}

/// No name would mean any name to Envoy: a name that no certificate carries means none.
fn servers_named(
    config: &ProxyConfig,
    names: Vec<SubjectAltNameMatcher>,
) -> Vec<SubjectAltNameMatcher> {
    if names.is_empty() {
        vec![uri(&format!(
            "spiffe://{}/-/-",
            config.identity.trust_domain
        ))]
    } else {
        names
    }
}

fn uri(name: &str) -> SubjectAltNameMatcher {
    SubjectAltNameMatcher {
        san_type: subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(build::exact(name)),
        oid: String::new(),
    }
}

fn validation(name: &str, names: Vec<SubjectAltNameMatcher>, trust: &TrustBundle) -> Secret {
    Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::ValidationContext(
            CertificateValidationContext {
                trusted_ca: build::inline(&trust.pem),
                match_typed_subject_alt_names: names,
                ..Default::default()
            },
        )),
    }
}
