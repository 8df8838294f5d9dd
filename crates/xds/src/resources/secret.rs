//! Validation contexts: which certificates are accepted from peers. A proxy's own certificate is not among them: it has
//! the key itself.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SubjectAltNameMatcher, secret, subject_alt_name_matcher,
};
use model::ProxyConfig;

use super::{TrustBundle, build};

/// For servers: one of these names must be proved.
pub(super) fn of_servers(
    config: &ProxyConfig,
    peers: &model::PeerTrust,
    trust: &TrustBundle,
) -> Secret {
    let names = peers.names.iter().map(|name| uri(name)).collect();
    validation(&peers.name, servers_named(config, names), trust)
}

/// For clients: any identity of the mesh may knock; who is let in is decided by RBAC.
pub(super) fn of_clients(inbound: &model::Inbound, trust: &TrustBundle) -> Secret {
    validation(&inbound.trust, Vec::new(), trust)
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
