//! A certificate's chain: up to a trusted root, for one purpose, in time, not revoked. Names are judged elsewhere.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, Error as TlsError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::{Error, provider};

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its owner connected.
    Client,
    /// Its owner was connected to.
    Server,
}

/// What chains must end in, and what revokes them.
#[derive(Clone)]
pub struct Chain {
    roots: Arc<RootCertStore>,
    revocations: Arc<[CertRevocationList<'static>]>,
    leaf_only: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Chain {
    /// Chains that end in one of these roots.
    pub fn new(roots: Arc<RootCertStore>) -> Chain {
        Chain {
            roots,
            revocations: Arc::new([]),
            leaf_only: false,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    /// With lists, a certificate whose issuer has none, or an outdated one, is not trusted; `leaf_only` asks for
    /// the leaf's issuer alone.
    pub fn with_revocations(
        mut self,
        lists: Arc<[CertRevocationList<'static>]>,
        leaf_only: bool,
    ) -> Chain {
        self.revocations = lists;
        self.leaf_only = leaf_only;
        self
    }

    /// The roots.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// Verifies a leaf with what was shown beside it.
    pub fn verify(
        &self,
        purpose: Purpose,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let usage = match purpose {
            Purpose::Client => KeyUsage::client_auth(),
            Purpose::Server => KeyUsage::server_auth(),
        };
        let lists: Vec<&CertRevocationList<'_>> = self.revocations.iter().collect();
        let depth = if self.leaf_only {
            RevocationCheckDepth::EndEntity
        } else {
            RevocationCheckDepth::Chain
        };
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        EndEntityCert::try_from(leaf)
            .map_err(refusal)?
            .verify_for_usage(
                self.algorithms.all,
                &self.roots.roots,
                intermediates,
                now,
                usage,
                revocation,
                None,
            )
            .map(drop)
            .map_err(refusal)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("roots", &self.roots.len())
            .field("revocations", &self.revocations.len())
            .finish_non_exhaustive()
    }
}

/// The refusal as rustls tells the peer: each kind has an alert of its own.
fn refusal(error: webpki::Error) -> TlsError {
    use webpki::Error as Why;
    let kind = match error {
        Why::BadDer | Why::BadDerTime | Why::TrailingData(_) => CertificateError::BadEncoding,
        Why::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Why::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        Why::UnknownIssuer => CertificateError::UnknownIssuer,
        Why::CertRevoked => CertificateError::Revoked,
        Why::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Why::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        Why::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Why::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    };
    TlsError::InvalidCertificate(kind)
}

/// Reads the certificate revocation lists of a PEM bundle.
pub fn parse_revocations(pem: &[u8]) -> Result<Vec<CertRevocationList<'static>>, Error> {
    let refuse = |error: String| Error::Certificate(error);
    CertificateRevocationListDer::pem_slice_iter(pem)
        .map(|found| {
            let der = found.map_err(|error| refuse(error.to_string()))?;
            OwnedCertRevocationList::from_der(&der)
                .map(CertRevocationList::from)
                .map_err(|error| refuse(error.to_string()))
        })
        .collect()
}

/// The SHA-256 that certificates and keys are pinned by.
pub fn fingerprint(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.iter_mut()
        .zip(digest::digest(&digest::SHA256, bytes).as_ref())
        .for_each(|(to, from)| *to = *from);
    sum
}
