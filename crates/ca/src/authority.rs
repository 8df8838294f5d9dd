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
    /// The same as PEM blocks.
    pub chain_pem: String,
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
            chain_pem: leaf.pem(),
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

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_RSA_SHA256};
    use x509_parser::extensions::GeneralName;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn identity() -> Identity {
        Identity::new("cluster.local", "curl", "demo").unwrap()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        parse_certificates(pem).unwrap().remove(0)
    }

    #[test]
    fn a_leaf_says_what_the_issuer_decides_and_nothing_of_the_request() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        // A request that asks to be a CA for somebody else's names.
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wish.distinguished_name.push(DnType::CommonName, "evil");
        let request = wish.serialize_request(&key).unwrap().pem().unwrap();

        let chain = authority
            .sign_request(&request, &identity(), DAY, now)
            .unwrap();
        let leaf = der(&chain[0]);
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        assert!(!parsed.is_ca());
        let subject = parsed.subject().to_string();
        assert!(
            subject.contains("CN=curl.demo.cluster.local") && !subject.contains("evil"),
            "{subject}"
        );
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            names.value.general_names,
            [
                GeneralName::URI("spiffe://cluster.local/curl/demo"),
                GeneralName::DNSName("curl.demo.cluster.local")
            ]
        );
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert!(parsed.tbs_certificate.raw_serial().len() >= 12);
        assert_eq!(
            parsed.public_key().subject_public_key.data.as_ref(),
            key.public_key_raw()
        );
        assert_eq!(Identity::from_certificate(&leaf).unwrap(), identity());
        let root = der(authority.certificate_pem());
        let (_, root) = x509_parser::parse_x509_certificate(&root).unwrap();
        parsed.verify_signature(Some(root.public_key())).unwrap();
    }

    #[test]
    fn a_leaf_is_valid_from_a_little_before_until_its_end_but_never_beyond_the_root() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = key.signing_request(&identity()).unwrap();
        for (validity, end) in [
            (DAY, now + DAY),
            (ROOT_VALIDITY * 2, now + ROOT_VALIDITY),
            (Duration::MAX, now + ROOT_VALIDITY),
        ] {
            let chain = authority
                .sign_request(&request, &identity(), validity, now)
                .unwrap();
            let not_after = server_leaf_not_after(&der(&chain[0])).unwrap();
            assert!(
                not_after <= end && end - Duration::from_secs(1) < not_after,
                "{validity:?}"
            );
        }
    }

    #[test]
    fn roots_survive_their_pem_form_also_rsa_ones() {
        let now = SystemTime::now();
        let own = Authority::generate(now).unwrap();
        let reloaded = Authority::from_pem(own.certificate_pem(), &own.key().to_pem()).unwrap();
        assert_eq!(
            reloaded.not_after(),
            server_leaf_not_after(&der(own.certificate_pem())).unwrap()
        );

        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = OffsetDateTime::from(now + DAY);
        let certificate = params.self_signed(&rsa).unwrap().pem();
        let upstream = Authority::from_pem(&certificate, &rsa.serialize_pem()).unwrap();
        let leaf = upstream.issue_workload(&identity(), DAY * 2, now).unwrap();
        assert!(leaf.not_after <= now + DAY);
        leaf.certified_key().unwrap();
    }

    #[test]
    fn bad_roots_and_requests_are_refused_without_quoting_keys() {
        let now = SystemTime::now();
        let (one, two) = (
            Authority::generate(now).unwrap(),
            Authority::generate(now).unwrap(),
        );
        let leaf = one.issue_workload(&identity(), DAY, now).unwrap();
        let request = leaf.key.signing_request(&identity()).unwrap();
        let leaf_pem = one
            .sign_request(&request, &identity(), DAY, now)
            .unwrap()
            .remove(0);
        for (certificate, key, reason) in [
            (one.certificate_pem(), two.key().to_pem(), "does not belong"),
            (leaf_pem.as_str(), leaf.key.to_pem(), "not a CA"),
            ("", one.key().to_pem(), "no certificate"),
            (
                one.certificate_pem(),
                zeroize::Zeroizing::new("s3cret".to_owned()),
                "private key",
            ),
        ] {
            let error = Authority::from_pem(certificate, &key)
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains(reason) && !error.contains("s3cret"),
                "{error}"
            );
        }
        // Flip a bit of the signature: possession of the key is not proven any more.
        let mut bytes =
            rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(request.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let body = base64(&bytes);
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
        );
        for bad in [forged.as_str(), "", "nonsense"] {
            assert!(
                matches!(
                    one.sign_request(bad, &identity(), DAY, now),
                    Err(Error::Request(_))
                ),
                "{bad}"
            );
        }
    }

    fn base64(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let value =
                chunk.iter().fold(0u32, |v, b| v << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for place in 0..4 {
                let digit = ALPHABET[(value >> (18 - 6 * place)) as usize & 63];
                text.push(if place <= chunk.len() {
                    char::from(digit)
                } else {
                    '='
                });
            }
        }
        text
    }
}
