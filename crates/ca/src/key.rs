//! A private key that stays secret, and the signing request it makes.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, Identity};

/// A private key. No `Debug`, no `Clone`; its serialized form is zeroized on drop.
pub struct PrivateKey(KeyPair);

// === impl PrivateKey ===

impl PrivateKey {
    /// A fresh ECDSA P-256 key.
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|e| Error::Key(e.to_string()))
    }

    /// Reads a PKCS#8, PKCS#1 (RSA) or SEC1 (EC) key.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        // The library's own text could quote its input: say only what was expected.
        KeyPair::from_pem(pem).map(Self).map_err(|_| {
            Error::Key("expected one unencrypted RSA, ECDSA or Ed25519 key in PEM form".into())
        })
    }

    /// The key as PKCS#8 PEM, for the CA Secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// The key in the form rustls takes.
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// A certificate signing request (PEM) that proves possession of this key. The issuer
    /// overwrites all names; they are in it for other issuers and for people who read it.
    pub fn signing_request(&self, identity: &Identity) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = crate::authority::workload_names(identity)?;
        params
            .serialize_request(&self.0)
            .and_then(|request| request.pem())
            .map_err(|e| Error::Request(e.to_string()))
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
