//! TLS contexts as configured, and the rustls configurations made from them, one per snapshot.

mod build;
mod names;
mod sessions;
mod verify;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls::{CommonState, HandshakeKind, RootCertStore};
use rustls_pki_types::ServerName;

pub use build::{CURVES, SUITES, client, server};
pub(crate) use names::key;
pub use names::{Names, encoded_pem, names};

use crate::matcher::StringMatch;

/// TLS termination of a filter chain.
#[derive(Debug)]
pub struct DownstreamTls {
    /// What both directions have in common.
    pub common: TlsContext,
    /// A client without certificate is refused.
    pub require_client_certificate: bool,
    /// A client without server name is refused.
    pub require_sni: bool,
    /// Sessions may be resumed.
    pub resumption: bool,
}

/// What a connection to an upstream will speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Whatever comes.
    Anything,
}

/// TLS origination of a cluster.
#[derive(Debug)]
pub struct UpstreamTls {
    /// What both directions have in common.
    pub common: TlsContext,
    /// The server name sent; empty sends none.
    pub sni: String,
    /// An endpoint's own host name is sent instead, where it has one.
    pub sni_of_host: bool,
    /// The server must be valid for the name that was sent.
    pub verifies_sni: bool,
    /// Sessions kept for resumption.
    pub sessions: usize,
}

/// What both directions have in common.
#[derive(Debug)]
pub struct TlsContext {
    /// TLS 1.2 is spoken.
    pub tls12: bool,
    /// TLS 1.3 is spoken.
    pub tls13: bool,
    /// Cipher suites of TLS 1.2 by OpenSSL's names; empty takes the defaults.
    pub ciphers: Vec<String>,
    /// Key exchanges by Envoy's names, in order of preference; empty takes the defaults.
    pub curves: Vec<String>,
    /// ALPN names, in order of preference.
    pub alpn: Vec<String>,
    /// Our certificate.
    pub certificate: CertificateSource,
    /// Whom we trust.
    pub validation: ValidationSource,
}

/// Where our certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// We show none.
    None,
    /// The proxy's own identity.
    Own,
    /// SDS.
    Secret(Arc<str>),
    /// The configuration itself.
    Inline(Arc<CertifiedKey>),
}

/// Where the trusted roots come from.
#[derive(Debug, Clone)]
pub enum ValidationSource {
    /// No peer certificate is looked at.
    None,
    /// The configuration itself.
    Inline(Arc<Validation>),
    /// SDS.
    Secret(Arc<str>),
    /// SDS for the roots, names of the configuration beside those of the secret.
    Combined(Arc<Validation>, Arc<str>),
}

/// Whom we trust.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    /// Roots; a context without any trusts nobody.
    pub roots: Option<Arc<RootCertStore>>,
    /// Roots by SPIFFE trust domain, in lower case; any makes a SPIFFE id of the leaf the condition.
    pub domains: Vec<(Arc<str>, Arc<RootCertStore>)>,
    /// One of the certificate's names must match one of these, unless there are none.
    pub names: Vec<NameMatch>,
    /// SHA-256 of leaves; with `keys`, one of them all must be the peer's, unless there are none.
    pub certificates: Vec<[u8; 32]>,
    /// SHA-256 of leaves' public keys.
    pub keys: Vec<[u8; 32]>,
    /// Lists of revoked certificates; with any, every issuer needs one.
    pub revocations: Arc<[Revocations]>,
    /// Only the leaf's issuer needs one.
    pub revocation_of_leaf_only: bool,
}

/// A certificate revocation list.
pub type Revocations = webpki::CertRevocationList<'static>;

/// A condition on a subject alternative name.
#[derive(Debug, Clone)]
pub struct NameMatch {
    /// Which kind of name.
    pub kind: NameKind,
    /// What it must be.
    pub matcher: StringMatch,
}

/// Kinds of subject alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// DNS.
    Dns,
    /// URI.
    Uri,
    /// E-mail.
    Email,
    /// IP address.
    Ip,
}

/// A secret of SDS.
#[derive(Debug, Clone)]
pub enum Secret {
    /// A certificate with its key.
    Certificate(Arc<CertifiedKey>),
    /// Whom we trust.
    Validation(Arc<Validation>),
}

/// What a TLS configuration is made from; equal inputs make an equal configuration.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The certificate of SDS.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// The validation context of SDS.
    pub validation: Option<Arc<Validation>>,
}

/// A chain's TLS configuration that serves.
#[derive(Debug)]
pub struct TlsServer {
    /// rustls' configuration.
    pub config: Arc<rustls::ServerConfig>,
    /// What it was made from.
    pub inputs: Inputs,
}

/// A cluster's TLS configuration that serves.
#[derive(Debug)]
pub struct TlsClient {
    /// rustls' configuration.
    pub config: Arc<rustls::ClientConfig>,
    /// The same for HTTP/1 and for HTTP/2, where no ALPN is configured.
    pub for_http: Option<(Arc<rustls::ClientConfig>, Arc<rustls::ClientConfig>)>,
    /// The server name.
    pub name: ServerName<'static>,
    /// An endpoint's host name goes before it.
    pub sni_of_host: bool,
    /// What it was made from.
    pub inputs: Inputs,
}

/// The proxy's own certificate, replaced while it is used.
#[derive(Debug, Default)]
pub struct OwnCertificate {
    current: ArcSwapOption<CertifiedKey>,
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A secret has not arrived.
    #[error("secret {0:?} has not arrived")]
    SecretMissing(Arc<str>),
    /// A secret is of another kind than its use needs.
    #[error("secret {0:?} is of the wrong kind")]
    SecretKind(Arc<str>),
    /// Roots are needed and there are none.
    #[error("no trusted_ca: nobody would be trusted")]
    NoRoots,
    /// rustls refuses the material.
    #[error("TLS material: {0}")]
    Material(String),
}

// === impl Validation ===

impl Validation {
    /// Somebody could be trusted.
    pub fn has_roots(&self) -> bool {
        self.roots.is_some() || !self.domains.is_empty()
    }
}

// === impl Inputs ===

impl Inputs {
    /// Finds a context's secrets.
    pub fn resolve<'a>(
        context: &TlsContext,
        find: impl Fn(&str) -> Option<&'a Secret>,
    ) -> Result<Inputs, TlsError> {
        let mut inputs = Inputs::default();
        if let CertificateSource::Secret(name) = &context.certificate {
            match find(name) {
                Some(Secret::Certificate(certificate)) => {
                    inputs.certificate = Some(certificate.clone())
                }
                Some(Secret::Validation(_)) => return Err(TlsError::SecretKind(name.clone())),
                None => return Err(TlsError::SecretMissing(name.clone())),
            }
        }
        if let ValidationSource::Secret(name) | ValidationSource::Combined(_, name) =
            &context.validation
        {
            match find(name) {
                Some(Secret::Validation(validation)) => {
                    inputs.validation = Some(validation.clone())
                }
                Some(Secret::Certificate(_)) => return Err(TlsError::SecretKind(name.clone())),
                None => return Err(TlsError::SecretMissing(name.clone())),
            }
        }
        Ok(inputs)
    }

    /// Whether both hold the very same material.
    pub fn same(&self, other: &Inputs) -> bool {
        same(&self.certificate, &other.certificate) && same(&self.validation, &other.validation)
    }
}

fn same<T>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

// === impl TlsClient ===

impl TlsClient {
    /// The configuration of a connection that will speak this.
    pub fn config(&self, speaks: Speaks) -> Arc<rustls::ClientConfig> {
        let config = match (speaks, &self.for_http) {
            (Speaks::Http1, Some((http1, _))) => http1,
            (Speaks::Http2, Some((_, http2))) => http2,
            (Speaks::Anything, _) | (_, None) => &self.config,
        };
        config.clone()
    }

    /// The server name for an endpoint with this host name, which may be empty.
    pub fn name(&self, host: &str) -> ServerName<'static> {
        let own = (self.sni_of_host && !host.is_empty())
            .then(|| ServerName::try_from(host.to_owned()).ok())
            .flatten();
        own.unwrap_or_else(|| self.name.clone())
    }
}

/// Whether a connection resumed a session of a peer whose certificate's time is over.
///
/// Resumption shows no certificate: roots, names and revocations are those the session began with, because sessions
/// die with their configuration; time is the one thing that goes on.
pub fn is_outlived(session: &CommonState) -> bool {
    session.handshake_kind() == Some(HandshakeKind::Resumed)
        && session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .is_some_and(|leaf| !names::is_current(leaf))
}

// === impl OwnCertificate ===

impl OwnCertificate {
    /// Puts a certificate in place; handshakes from now on use it.
    pub fn replace(&self, certificate: Arc<CertifiedKey>) {
        self.current.store(Some(certificate));
    }

    /// The certificate in place.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl rustls::server::ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl rustls::client::ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}

/// A fixed certificate for either direction.
#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl rustls::client::ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
