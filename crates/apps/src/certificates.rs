//! A certificate authority for the length of a run, and one certificate for all names that it serves.

use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

/// A TLS configuration and the authority that clients must trust to accept it.
pub struct Certificates {
    /// The authority, as PEM.
    pub authority: String,
    /// Serves HTTP/2 and HTTP/1.1 by ALPN.
    pub server: Arc<rustls::ServerConfig>,
}

/// Makes an authority and a certificate for the names.
pub fn certificates(names: &[String]) -> anyhow::Result<Certificates> {
    let authority = authority()?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec()).context("a name is not a DNS name")?;
    params.use_authority_key_identifier_extension = true;
    if let Some(name) = names.first() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    let leaf = params.signed_by(&key, &authority)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.into())?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Certificates {
        authority: authority.pem(),
        server: Arc::new(server),
    })
}

fn authority() -> anyhow::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "outside world demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}
