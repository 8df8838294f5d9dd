//! Certificates of every kind, good and bad.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SigningKey,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

/// The name most leaves have.
pub const CLIENT: &str = "spiffe://cluster.local/client/ns";

/// A root that signs.
pub struct Root {
    pub issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate with its key.
pub struct Leaf {
    pub chain: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Root {
    pub fn new() -> Root {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Root { issuer, pem }
    }

    /// Signs a leaf for both purposes, valid for an hour, with these changes.
    pub fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.not_before = now - Duration::from_secs(3600);
        params.not_after = now + Duration::from_secs(3600);
        params.serial_number = Some(vec![7].into());
        params.extended_key_usages = vec![Usage::ClientAuth, Usage::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            chain: made.pem(),
            key: key.serialize_pem(),
            der: made.der().clone(),
        }
    }

    pub fn uri(&self, uri: &str) -> Leaf {
        self.leaf(|params| params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())])
    }

    /// A certificate of version 1, as `openssl x509 -req` makes them: no extensions, no names.
    pub fn version1(&self) -> Leaf {
        let with = self.uri(CLIENT);
        let key = KeyPair::generate().unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&with.der).unwrap();
        let signed = &parsed.tbs_certificate;
        let algorithm = tlv(0x30, &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        let times = tlv(0x30, &[&time(0)[..], &time(3650)].concat());
        let body = [
            &[2, 1, 9][..],
            &algorithm,
            signed.issuer.as_raw(),
            &times,
            signed.issuer.as_raw(),
            &key.subject_public_key_info(),
        ];
        let body = tlv(0x30, &body.concat());
        let signature = self.issuer.key().sign(&body).unwrap();
        let bits = tlv(3, &[&[0][..], &signature].concat());
        let der = tlv(0x30, &[body, algorithm, bits].concat());
        let chain = pem(&der);
        let der = CertificateDer::from(der);
        Leaf {
            chain,
            key: key.serialize_pem(),
            der,
        }
    }

    pub fn revocations(&self, serials: &[u8]) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: vec![*serial].into(),
            revocation_time: now - Duration::from_secs(60),
            reason_code: None,
            invalidity_date: None,
        });
        let params = rcgen::CertificateRevocationListParams {
            this_update: now - Duration::from_secs(60),
            next_update: now + Duration::from_secs(3600),
            crl_number: vec![1].into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..128 => vec![tag, length[1]],
        128..256 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [head, content.to_vec()].concat()
}

/// A UTCTime that many days after yesterday.
fn time(days: u64) -> Vec<u8> {
    let at = OffsetDateTime::now_utc() + Duration::from_secs(days * 86_400)
        - Duration::from_secs(86_400);
    let text = format!(
        "{:02}{:02}{:02}000000Z",
        at.year() % 100,
        u8::from(at.month()),
        at.day()
    );
    tlv(0x17, text.as_bytes())
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
