//! Keys, X.509 certificates, SPIFFE identities: the mesh's root, leaves for CSRs, verifiers.
//!
//! Knows rustls and X.509; knows neither Kubernetes nor xDS. Private keys have no `Debug`, are
//! never part of an error text and are zeroized when dropped where the underlying crate allows it.

mod authority;
mod chain;
mod identity;
mod key;
mod trust;
mod verifier;

pub use authority::{Authority, Leaf, ROOT_COMMON_NAME, ROOT_VALIDITY};
pub use chain::{Chain, Purpose, fingerprint, parse_revocations};
pub use identity::{CertificateFacts, Identity, peer_identity, server_leaf_not_after};
pub use key::PrivateKey;
pub use trust::{ClientVerifier, ServerVerifier, TrustStore, parse_certificates, provider};
pub use verifier::{Judge, Presented, Verifier};

/// What went wrong with a key, a certificate, or a name in one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The private key could not be generated or read. The text never holds key material.
    #[error("private key: {0}")]
    Key(String),
    /// A PEM certificate or bundle could not be read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A certificate signing request is malformed or does not prove possession of its key.
    #[error("certificate signing request: {0}")]
    Request(String),
    /// A name is not a SPIFFE identity of this mesh's form.
    #[error("identity {name:?}: {reason}")]
    Identity {
        /// The offending name.
        name: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// The certificate carries no, or more than one, URI name.
    #[error("certificate has {0} URI names, an identity needs exactly one")]
    UriNames(usize),
    /// Signing failed.
    #[error("signing a certificate for {subject}: {reason}")]
    Signing {
        /// For whom the certificate was meant.
        subject: String,
        /// The signer's reason.
        reason: String,
    },
    /// rustls refuses the material.
    #[error("TLS material: {0}")]
    Tls(#[from] rustls::Error),
}
