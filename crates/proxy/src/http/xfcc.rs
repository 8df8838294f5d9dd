//! What `x-forwarded-client-cert` says of a client, in Envoy's form. Made once per connection.

use std::fmt::Write;

use http::HeaderValue;
use rustls_pki_types::CertificateDer;

use crate::tls::Names;

/// What is told beside our own name and the certificate's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CertDetails {
    /// Its subject.
    pub subject: bool,
    /// Its DNS names.
    pub dns: bool,
    /// Its URI name.
    pub uri: bool,
}

impl CertDetails {
    /// The element for a client with this certificate; `own` is our certificate's URI name.
    pub fn element(
        &self,
        certificate: &CertificateDer<'_>,
        names: &Names,
        own: Option<&str>,
    ) -> Option<HeaderValue> {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(own.map(|own| format!("By={own}")));
        parts.extend(sha256(certificate).map(|hash| format!("Hash={hash}")));
        if self.subject {
            // RFC 4514 §2.1 begins with the last of the relative names.
            let subject: Vec<&str> = names.subject.rsplit(", ").collect();
            let subject = subject.join(",").replace('\\', "\\\\").replace('"', "\\\"");
            parts.push(format!("Subject=\"{subject}\""));
        }
        if self.uri {
            let uri = names.uris.first().map_or("", String::as_str);
            parts.push(format!("URI={uri}"));
        }
        if self.dns {
            parts.extend(names.dns.iter().map(|name| format!("DNS={name}")));
        }
        HeaderValue::try_from(parts.join(";")).ok()
    }
}

/// The certificate's SHA-256 in lower-case hexadecimal.
fn sha256(certificate: &CertificateDer<'_>) -> Option<String> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
    let hash = suite.common.hash_provider.hash(certificate);
    let mut text = String::with_capacity(64);
    for byte in hash.as_ref() {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_in_envoys_order() {
        let names = Names {
            uris: vec!["spiffe://td/a/b".into()],
            dns: vec!["a.b".into(), "c.d".into()],
            subject: "O=Org, CN=a \"quoted\" name".into(),
            ..Names::default()
        };
        let certificate = CertificateDer::from(&b"abc"[..]);
        let hash = "Hash=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let none = CertDetails::default();
        let all = CertDetails {
            subject: true,
            dns: true,
            uri: true,
        };
        let element = |details: CertDetails, own| {
            let value = details.element(&certificate, &names, own).unwrap();
            value.to_str().unwrap().to_owned()
        };
        assert_eq!(element(none, None), hash);
        assert_eq!(
            element(all, Some("spiffe://td/own/ns")),
            format!(
                "By=spiffe://td/own/ns;{hash};Subject=\"CN=a \\\"quoted\\\" name,O=Org\";URI=spiffe://td/a/b;DNS=a.b;DNS=c.d"
            )
        );
    }
}
