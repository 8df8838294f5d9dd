//! The names in a certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{NameKind, NameMatch};
use crate::matcher::{Affix, StringMatch};

/// The names of one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// E-mail names.
    pub emails: Vec<String>,
    /// IP addresses.
    pub ips: Vec<String>,
    /// The subject.
    pub subject: String,
}

/// The public key as SubjectPublicKeyInfo; `None` for what is no certificate.
pub(crate) fn key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// Whether the certificate's time is now.
pub(super) fn is_current(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.validity().is_valid())
}

/// Reads the names; `None` for what is no certificate, and for one with a name that other readers would cut short.
pub fn names(certificate: &CertificateDer<'_>) -> Option<Names> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names = Names {
        subject: parsed.subject().to_string(),
        ..Names::default()
    };
    let alternative = parsed.subject_alternative_name().ok()?;
    for name in alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => names.dns.push((*dns).to_owned()),
            GeneralName::RFC822Name(email) => names.emails.push((*email).to_owned()),
            GeneralName::IPAddress(bytes) => names.ips.extend(address(bytes)),
            _ => {}
        }
    }
    let mut all = names.uris.iter().chain(&names.dns).chain(&names.emails);
    let is_clean = all.all(|name| name.bytes().all(|byte| byte.is_ascii_graphic()));
    is_clean.then_some(names)
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

/// Whether a DNS name, which may be a wildcard, is what is wanted.
fn covers(name: &str, wanted: &StringMatch) -> bool {
    if wanted.matches(name) {
        return true;
    }
    // RFC 6125 §6.4.3: `*` stands for one whole label, the leftmost.
    let (Some(parent), StringMatch::Exact(wanted) | StringMatch::NoCase(Affix::Whole, wanted)) =
        (name.strip_prefix("*."), wanted)
    else {
        return false;
    };
    let split = wanted.split_once('.');
    split.is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
}

impl Names {
    /// The names a policy's `principal_name` is compared with: URI names, else DNS names, else the subject.
    ///
    /// A certificate with several URI names has no identity: SPIFFE allows exactly one, and a second one could
    /// be somebody else's.
    pub fn principals(&self) -> Option<Vec<String>> {
        match (self.uris.as_slice(), self.dns.as_slice()) {
            ([uri], _) => Some(vec![uri.clone()]),
            ([], []) => Some(vec![self.subject.clone()]),
            ([], dns) => Some(dns.to_vec()),
            _ => None,
        }
    }

    /// Whether any name matches any condition.
    pub fn satisfy(&self, conditions: &[NameMatch]) -> bool {
        conditions.iter().any(|condition| {
            let names = match condition.kind {
                NameKind::Dns => {
                    return self.dns.iter().any(|name| covers(name, &condition.matcher));
                }
                NameKind::Uri => &self.uris,
                NameKind::Email => &self.emails,
                NameKind::Ip => &self.ips,
            };
            names.iter().any(|name| condition.matcher.matches(name))
        })
    }
}
/// A certificate as PEM, percent-encoded as in `x-forwarded-client-cert`.
pub fn encoded_pem(der: &[u8]) -> String {
    let mut out = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    // 48 bytes are a line of 64 characters: RFC 7468 §2.
    for line in der.chunks(48) {
        for symbol in STANDARD.encode(line).chars() {
            match symbol {
                '+' => out.push_str("%2B"),
                '/' => out.push_str("%2F"),
                '=' => out.push_str("%3D"),
                symbol => out.push(symbol),
            }
        }
        out.push_str("%0A");
    }
    out.push_str("-----END%20CERTIFICATE-----%0A");
    out
}
