//! rustls' verifier of either direction around one judgement of certificates.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Purpose, provider};

/// A certificate as the peer showed it.
#[derive(Debug)]
pub struct Presented<'a> {
    /// What it is shown for.
    pub purpose: Purpose,
    /// The certificate.
    pub leaf: &'a CertificateDer<'a>,
    /// What was shown beside it.
    pub intermediates: &'a [CertificateDer<'a>],
    /// The server name that was asked for, of servers.
    pub server_name: Option<&'a ServerName<'a>>,
    /// Now.
    pub now: UnixTime,
}

/// Decides whether the owner of a certificate is trusted. That the peer owns it, the handshake proves.
pub trait Judge: fmt::Debug + Send + Sync {
    /// The chain, then the names.
    fn judge(&self, presented: &Presented<'_>) -> Result<(), TlsError>;
}

/// A judge as rustls wants it.
#[derive(Debug)]
pub struct Verifier<J> {
    judge: J,
    /// A client without certificate is refused.
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<J: Judge> Verifier<J> {
    /// A verifier; `mandatory` matters for clients: servers always show a certificate.
    pub fn new(judge: J, mandatory: bool) -> Verifier<J> {
        Verifier {
            judge,
            mandatory,
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.judge.judge(&Presented {
            purpose: Purpose::Server,
            leaf,
            intermediates,
            server_name: Some(server_name),
            now,
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl<J: Judge> ClientCertVerifier for Verifier<J> {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints would have to outlive a replacement of the roots, and tell strangers who we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.judge.judge(&Presented {
            purpose: Purpose::Client,
            leaf,
            intermediates,
            server_name: None,
            now,
        })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
