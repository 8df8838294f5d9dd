//! rustls configurations from contexts and their secrets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use ca::Verifier;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion, version};
use rustls_pki_types::ServerName;

use super::sessions::Sessions;
use super::verify::Peers;
use super::{
    CertificateSource, DownstreamTls, Fixed, Inputs, OwnCertificate, TlsClient, TlsContext,
    TlsError, TlsServer, UpstreamTls, Validation, ValidationSource,
};

/// Sessions a chain or cluster remembers; about 1 KiB each.
const SESSIONS: usize = 256;

/// The server configuration of a chain.
pub fn server(
    tls: &DownstreamTls,
    inputs: Inputs,
    own: &Arc<OwnCertificate>,
) -> Result<TlsServer, TlsError> {
    let provider = provider(&tls.common);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(&tls.common))
        .map_err(material)?;
    let builder = match validation(&tls.common, &inputs) {
        Some(validation) => {
            let peers = Peers::new(validation, false)?;
            let verifier = Verifier::new(peers, tls.require_client_certificate);
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
        None if tls.require_client_certificate => return Err(TlsError::NoRoots),
        None => builder.with_no_client_auth(),
    };
    let mut config = match certificate(&tls.common, &inputs) {
        Some(fixed) => builder.with_cert_resolver(Arc::new(Fixed(fixed))),
        None => builder.with_cert_resolver(own.clone()),
    };
    config.alpn_protocols = alpn(&tls.common);
    // A resumed session skips the check of the client's certificate: sessions die with the configuration, which
    // is made anew whenever the trusted roots change.
    if tls.resumption {
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.send_tls13_tickets = 1;
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(TlsServer {
        config: Arc::new(config),
        inputs,
    })
}

/// The client configuration of a cluster.
pub fn client(
    tls: &UpstreamTls,
    inputs: Inputs,
    own: &Arc<OwnCertificate>,
) -> Result<TlsClient, TlsError> {
    let provider = provider(&tls.common);
    let validation = validation(&tls.common, &inputs).ok_or(TlsError::NoRoots)?;
    let verifier = Verifier::new(Peers::new(validation, tls.verifies_sni)?, true);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(&tls.common))
        .map_err(material)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&tls.common.certificate, certificate(&tls.common, &inputs)) {
        (_, Some(fixed)) => builder.with_client_cert_resolver(Arc::new(Fixed(fixed))),
        (CertificateSource::Own, None) => builder.with_client_cert_resolver(own.clone()),
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn(&tls.common);
    let is_silent = config.alpn_protocols.is_empty();
    config.resumption = match tls.sessions {
        0 => Resumption::disabled(),
        sessions => Resumption::store(Arc::new(Sessions::new(sessions))),
    };
    config.enable_sni = !tls.sni.is_empty() || tls.sni_of_host;
    let name = if tls.sni.is_empty() {
        ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    } else {
        ServerName::try_from(tls.sni.clone())
            .map_err(|_| TlsError::Material(format!("sni {:?}", tls.sni)))?
    };
    // As Envoy: where nothing is configured, a connection for HTTP says which HTTP it is for.
    let offering = |protocol: &[u8]| {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    Ok(TlsClient {
        for_http: is_silent.then(|| (offering(b"http/1.1"), offering(b"h2"))),
        config: Arc::new(config),
        name,
        sni_of_host: tls.sni_of_host,
        inputs,
    })
}

fn certificate(context: &TlsContext, inputs: &Inputs) -> Option<Arc<CertifiedKey>> {
    match &context.certificate {
        CertificateSource::Inline(certificate) => Some(certificate.clone()),
        CertificateSource::Secret(_) => inputs.certificate.clone(),
        CertificateSource::Own | CertificateSource::None => None,
    }
}

fn validation(context: &TlsContext, inputs: &Inputs) -> Option<Validation> {
    match &context.validation {
        ValidationSource::None => None,
        ValidationSource::Inline(validation) => Some((**validation).clone()),
        ValidationSource::Secret(_) => inputs.validation.as_deref().cloned(),
        ValidationSource::Combined(default, _) => {
            let mut merged = inputs.validation.as_deref().cloned()?;
            // As protobuf merges the secret into the default: its single fields win, lists add up.
            merged.roots = merged.roots.or_else(|| default.roots.clone());
            merged.names.extend(default.names.iter().cloned());
            merged.certificates.extend(&default.certificates);
            merged.keys.extend(&default.keys);
            if merged.revocations.is_empty() {
                merged.revocations = default.revocations.clone();
            }
            if merged.domains.is_empty() {
                merged.domains = default.domains.clone();
            }
            merged.revocation_of_leaf_only |= default.revocation_of_leaf_only;
            Some(merged)
        }
    }
}

fn versions(context: &TlsContext) -> Vec<&'static SupportedProtocolVersion> {
    let tls13 = context.tls13.then_some(&version::TLS13);
    let tls12 = context.tls12.then_some(&version::TLS12);
    tls13.into_iter().chain(tls12).collect()
}

fn alpn(context: &TlsContext) -> Vec<Vec<u8>> {
    context
        .alpn
        .iter()
        .map(|name| name.clone().into_bytes())
        .collect()
}

/// The provider with the configured key exchanges and TLS 1.2 suites; the suites of TLS 1.3 are fixed, AES-GCM first.
fn provider(context: &TlsContext) -> Arc<CryptoProvider> {
    static DEFAULT: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let default = DEFAULT.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    if context.curves.is_empty() && context.ciphers.is_empty() {
        return default.clone(); // One for all: ten thousand clusters would have as many.
    }
    let mut provider = CryptoProvider::clone(default);
    if !context.curves.is_empty() {
        let known = |name: &String| CURVES.iter().find(|(known, _)| known == name);
        provider.kx_groups = context
            .curves
            .iter()
            .filter_map(known)
            .map(|(_, group)| *group)
            .collect();
    }
    if !context.ciphers.is_empty() {
        provider.cipher_suites.retain(|suite| {
            suite.tls13().is_some()
                || context
                    .ciphers
                    .iter()
                    .any(|name| is_suite(suite.suite(), name))
        });
    }
    Arc::new(provider)
}

/// BoringSSL's names of the key exchanges rustls has; X25519MLKEM768 is offered first where none are configured.
pub const CURVES: [(&str, &dyn SupportedKxGroup); 4] = [
    ("X25519MLKEM768", kx_group::X25519MLKEM768),
    ("X25519", kx_group::X25519),
    ("P-256", kx_group::SECP256R1),
    ("P-384", kx_group::SECP384R1),
];

/// OpenSSL's names of the suites rustls has.
pub const SUITES: [(&str, rustls::CipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        rustls::CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

fn is_suite(suite: rustls::CipherSuite, name: &str) -> bool {
    SUITES
        .iter()
        .any(|(known, id)| *known == name && *id == suite)
}

fn material(error: rustls::Error) -> TlsError {
    TlsError::Material(error.to_string())
}
