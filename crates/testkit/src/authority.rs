//! A test's certificate authority: good leafs and every kind of bad one.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::json;
use time::OffsetDateTime;

use crate::Resources;
use crate::resources::SDS;

/// A root.
pub struct Authority {
    /// Its certificate, PEM.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
}

/// What a leaf says.
#[derive(Clone, Debug)]
pub struct Names<'a> {
    /// URI names, such as `spiffe://cluster.local/client/ns`.
    pub uris: &'a [&'a str],
    /// DNS names.
    pub dns: &'a [&'a str],
    /// Whether its time is over.
    pub is_expired: bool,
}

// === impl Authority ===

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Authority {
    /// A new root.
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = name("test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A workload's leaf: SPIFFE name in OSM's order, and the DNS name that goes with it.
    pub fn workload(&self, service_account: &str, namespace: &str) -> Leaf {
        self.leaf(&Names {
            uris: &[&format!(
                "spiffe://cluster.local/{service_account}/{namespace}"
            )],
            dns: &[&format!("{service_account}.{namespace}.cluster.local")],
            is_expired: false,
        })
    }

    /// A leaf with these names.
    pub fn leaf(&self, names: &Names<'_>) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = name("test leaf");
        let uris = names.uris.iter();
        let uris = uris.map(|uri| SanType::URI((*uri).try_into().unwrap()));
        let dns = names.dns.iter();
        let dns = dns.map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns).collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = OffsetDateTime::now_utc();
        let hour = Duration::from_secs(3600);
        (params.not_before, params.not_after) = match names.is_expired {
            true => (now - 2 * hour, now - hour),
            false => (now - hour, now + 24 * hour),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A secret with this root as validation context.
    pub fn secret(&self, name: &str) -> Resources {
        let mut resources = Resources::default();
        let context = json!({"trusted_ca": {"inline_string": self.pem}});
        resources.add(SDS, &json!({"name": name, "validation_context": context}));
        resources
    }

    /// A client's configuration: trusts any server (proxies under test are judged by what they do), shows `leaf`.
    pub fn client(leaf: Option<&Leaf>, alpn: &[&str]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider())));
        let mut config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder
                .with_client_auth_cert(leaf.chain(), leaf.private_key())
                .unwrap(),
        };
        config.alpn_protocols = protocols(alpn);
        // Each connection shakes hands anew: a resumed session would skip what is tested.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// A server's configuration: shows `leaf`, demands a certificate of this root if asked to.
    pub fn server(&self, leaf: &Leaf, demands: bool, alpn: &[&str]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if demands {
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
                .unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider(),
            );
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(leaf.chain(), leaf.private_key())
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }
}

// === impl Leaf ===

impl Leaf {
    /// A secret with this certificate.
    pub fn secret(&self, name: &str) -> Resources {
        let mut resources = Resources::default();
        let certificate = json!({
            "certificate_chain": {"inline_string": self.certificate},
            "private_key": {"inline_string": self.key},
        });
        resources.add(SDS, &json!({"name": name, "tls_certificate": certificate}));
        resources
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Accepts any server; signatures are still verified.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
