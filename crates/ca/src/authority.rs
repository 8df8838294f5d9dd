//! The mesh's certificate authority: a root that signs workload and server leaves.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use crate::{Error, Identity, PrivateKey, parse_certificates, provider, server_leaf_not_after};

/// Subject of a generated root, as upstream names it.
pub const ROOT_COMMON_NAME: &str = "osm-ca.openservicemesh.io";

/// Validity of a generated root: 87600 h, as upstream's.
pub const ROOT_VALIDITY: Duration = Duration::from_secs(87_600 * 3600);

/// Organization in every certificate, as upstream writes it.
const ORGANIZATION: &str = "Open Service Mesh";

/// How far before "now" a certificate starts to be valid: nodes' clocks differ by seconds,
/// badly kept ones by minutes.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// X.520's upper bound of a common name; longer names are left out (the names that count are
/// subject alternative names).
const COMMON_NAME_BOUND: usize = 64;

/// A root certificate with its key.
///
/// The root is ECDSA P-256 when generated here (upstream: RSA 2048); an RSA root that is already
/// in the Secret, as an Open Service Mesh installation leaves it, is read and used as it is.
pub struct Authority {
    certificate_pem: String,
    not_after: SystemTime,
    key: PrivateKey,
}

/// A certificate with its key, for a server of the control plane.
pub struct Leaf {
    /// The leaf, then the certificates up to but not including the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKey,
    /// When the leaf stops being valid.
    pub not_after: SystemTime,
}

// === impl Authority ===

impl Authority {
    /// A new self-signed root, valid from `now` for [`ROOT_VALIDITY`].
    pub fn generate(now: SystemTime) -> Result<Self, Error> {
        let key = PrivateKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, ROOT_COMMON_NAME);
        params.distinguished_name.push(DnType::CountryName, "US");
        params.distinguished_name.push(DnType::LocalityName, "CA");
        params
            .distinguished_name
            .push(DnType::OrganizationName, ORGANIZATION);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from(now + ROOT_VALIDITY);
        let certificate = params
            .self_signed(key.pair())
            .map_err(|e| signing(ROOT_COMMON_NAME, &e))?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            not_after: now + ROOT_VALIDITY,
            key,
        })
    }

    /// Reads a root back: the certificate (the first, if there are several) and its key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let key = PrivateKey::from_pem(key)?;
        let certificates = parse_certificates(certificate)?;
        let first = certificates
            .first()
            .ok_or_else(|| Error::Certificate("no certificate".into()))?;
        let not_after = server_leaf_not_after(first)?;
        check_root(first, &key)?;
        Ok(Self {
            certificate_pem: certificate.to_owned(),
            not_after,
            key,
        })
    }

    /// The root certificate, PEM: what everybody in the mesh trusts.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The root's key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// When the root stops being valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs a workload's leaf. Nothing of the request survives but its public key: names,
    /// usages, serial and validity are all written here.
    ///
    /// Returns the chain as PEM blocks, leaf first.
    pub fn sign_request(
        &self,
        request_pem: &str,
        identity: &Identity,
        validity: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, Error> {
        // Parsing verifies the request's own signature, i.e. possession of the key.
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|e| Error::Request(e.to_string()))?;
        request.params = self.leaf_params(
            workload_names(identity)?,
            &identity.dns_name(),
            validity,
            now,
        )?;
        let leaf = request
            .signed_by(&self.issuer()?)
            .map_err(|e| signing(&identity.uri(), &e))?;
        Ok(self.chain_pem(&leaf))
    }

    /// Makes a key and a leaf for a server of the control plane, valid for `dns_names`.
    pub fn issue_server(
        &self,
        dns_names: &[&str],
        validity: Duration,
        now: SystemTime,
    ) -> Result<Leaf, Error> {
        let names = dns_names
            .iter()
            .map(|name| dns(name))
            .collect::<Result<Vec<_>, _>>()?;
        let subject = dns_names.first().copied().unwrap_or_default();
        self.issue(names, subject, validity, now)
    }

    /// Makes a key and a leaf for a workload: for proxies that cannot make their own key.
    pub fn issue_workload(
        &self,
        identity: &Identity,
        validity: Duration,
        now: SystemTime,
    ) -> Result<Leaf, Error> {
        self.issue(
            workload_names(identity)?,
            &identity.dns_name(),
            validity,
            now,
        )
    }

    fn issue(
        &self,
        names: Vec<SanType>,
        subject: &str,
        validity: Duration,
        now: SystemTime,
    ) -> Result<Leaf, Error> {
        let key = PrivateKey::generate()?;
        let params = self.leaf_params(names, subject, validity, now)?;
        let leaf = params
            .signed_by(key.pair(), &self.issuer()?)
            .map_err(|e| signing(subject, &e))?;
        Ok(Leaf {
            chain: vec![leaf.der().clone()],
            key,
            not_after: params.not_after.into(),
        })
    }

    fn leaf_params(
        &self,
        names: Vec<SanType>,
        subject: &str,
        validity: Duration,
        now: SystemTime,
    ) -> Result<CertificateParams, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if subject.len() <= COMMON_NAME_BOUND {
            params.distinguished_name.push(DnType::CommonName, subject);
        }
        params
            .distinguished_name
            .push(DnType::OrganizationName, ORGANIZATION);
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        // A leaf that outlives its root would only look valid.
        let not_after = now
            .checked_add(validity)
            .map_or(self.not_after, |end| end.min(self.not_after));
        params.not_after = OffsetDateTime::from(not_after);
        Ok(params)
    }

    fn issuer(&self) -> Result<Issuer<'static, &rcgen::KeyPair>, Error> {
        Issuer::from_ca_cert_pem(&self.certificate_pem, self.key.pair())
            .map_err(|e| Error::Certificate(format!("root: {e}")))
    }

    /// The leaf alone: it is signed by the root itself, which every peer already has.
    fn chain_pem(&self, leaf: &Certificate) -> Vec<String> {
        vec![leaf.pem()]
    }
}

// === impl Leaf ===

impl Leaf {
    /// The form a rustls certificate resolver hands out.
    pub fn certified_key(&self) -> Result<Arc<CertifiedKey>, Error> {
        Ok(Arc::new(CertifiedKey::from_der(
            self.chain.clone(),
            self.key.to_rustls(),
            &provider(),
        )?))
    }
}

/// The subject alternative names of a workload's leaf: the SPIFFE URI and the DNS name.
pub(crate) fn workload_names(identity: &Identity) -> Result<Vec<SanType>, Error> {
    let uri = Ia5String::try_from(identity.uri()).map_err(|_| Error::Identity {
        name: identity.uri(),
        reason: "not ASCII",
    })?;
    Ok(vec![SanType::URI(uri), dns(&identity.dns_name())?])
}

fn dns(name: &str) -> Result<SanType, Error> {
    Ia5String::try_from(name)
        .map(SanType::DnsName)
        .map_err(|_| Error::Certificate(format!("DNS name {name:?} is not ASCII")))
}

/// 128 random bits, as upstream's serials.
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0u8; 16];
    provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::Certificate("no random numbers for a serial".into()))?;
    Ok(SerialNumber::from_slice(&bytes))
}

fn check_root(certificate: &CertificateDer<'_>, key: &PrivateKey) -> Result<(), Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|e| Error::Certificate(format!("root: {e}")))?;
    if !parsed.is_ca() {
        return Err(Error::Certificate("root: not a CA certificate".into()));
    }
    if parsed.public_key().raw
        != rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(
            key.pair().public_key_pem().as_bytes(),
        )
        .map_err(|e| Error::Key(e.to_string()))?
        .as_ref()
    {
        return Err(Error::Certificate(
            "root: the private key does not belong to the certificate".into(),
        ));
    }
    Ok(())
}

fn signing(subject: &str, error: &rcgen::Error) -> Error {
    Error::Signing {
        subject: subject.to_owned(),
        reason: error.to_string(),
    }
}
