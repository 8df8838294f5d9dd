//! A workload's identity: its ServiceAccount, written as a SPIFFE URI.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::CommonState;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;

/// A ServiceAccount in a trust domain: `spiffe://<trust-domain>/<service account>/<namespace>`.
///
/// The ServiceAccount comes first: that is Open Service Mesh's order, not Istio's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The trust domain, e.g. `cluster.local`.
    pub trust_domain: String,
    /// Name of the ServiceAccount.
    pub service_account: String,
    /// Namespace of the ServiceAccount.
    pub namespace: String,
}

// === impl Identity ===

impl Identity {
    /// Checks the three parts and joins them.
    pub fn new(trust_domain: &str, service_account: &str, namespace: &str) -> Result<Self, Error> {
        let identity = Self {
            trust_domain: trust_domain.to_owned(),
            service_account: service_account.to_owned(),
            namespace: namespace.to_owned(),
        };
        for (part, reason) in [
            (
                trust_domain,
                "the trust domain must be a lower-case DNS name",
            ),
            (
                service_account,
                "the service account must be a lower-case DNS name",
            ),
            (namespace, "the namespace must be a lower-case DNS label"),
        ] {
            if !is_dns_name(part) {
                return Err(Error::Identity {
                    name: identity.uri(),
                    reason,
                });
            }
        }
        if namespace.contains('.') {
            let reason = "the namespace must be a lower-case DNS label";
            return Err(Error::Identity {
                name: identity.uri(),
                reason,
            });
        }
        Ok(identity)
    }

    /// The SPIFFE URI.
    pub fn uri(&self) -> String {
        format!(
            "spiffe://{}/{}/{}",
            self.trust_domain, self.service_account, self.namespace
        )
    }

    /// The DNS name a leaf carries beside the URI: `<sa>.<namespace>.<trust-domain>`.
    pub fn dns_name(&self) -> String {
        format!(
            "{}.{}.{}",
            self.service_account, self.namespace, self.trust_domain
        )
    }

    /// Reads the identity out of a certificate. The caller must have verified the certificate:
    /// use [`peer_identity`] for the other end of a TLS connection.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        uri_name(certificate)?.parse()
    }
}

impl FromStr for Identity {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::Identity {
            name: uri.to_owned(),
            reason,
        };
        let path = uri
            .strip_prefix("spiffe://")
            .ok_or_else(|| refuse("not a spiffe:// URI"))?;
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(trust_domain), Some(service_account), Some(namespace), None) => {
                Self::new(trust_domain, service_account, namespace)
            }
            _ => Err(refuse(
                "expected spiffe://<trust-domain>/<service account>/<namespace>",
            )),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

/// The identity of the other end of a TLS connection, `None` when it showed no certificate.
///
/// rustls hands out peer certificates only after its verifier accepted them, so the answer stands
/// for a verified certificate as long as the connection's configuration has a real verifier.
pub fn peer_identity(connection: &CommonState) -> Option<Result<Identity, Error>> {
    let leaf = connection.peer_certificates()?.first()?;
    Some(Identity::from_certificate(leaf))
}

/// When the certificate stops being valid.
pub fn server_leaf_not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, Error> {
    let (_, parsed) = parse(certificate)?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// What the holder of a certificate wants to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// DNS names among its subject alternative names.
    pub dns_names: Vec<String>,
    /// When it stops being valid.
    pub not_after: SystemTime,
}

// === impl CertificateFacts ===

impl CertificateFacts {
    /// Of the first certificate in a PEM text. Nothing is verified.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let certificates = crate::parse_certificates(pem)?;
        let first = certificates.first();
        let first = first.ok_or_else(|| Error::Certificate("none in the text".to_owned()))?;
        let (_, parsed) = parse(first)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|e| Error::Certificate(e.to_string()))?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        Ok(Self {
            dns_names: names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
                .collect(),
            not_after: server_leaf_not_after(first)?,
        })
    }
}

/// The one URI name of a certificate; none or several are refused (SPIFFE X.509-SVID §2).
pub(crate) fn uri_name(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let (_, parsed) = parse(certificate)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|e| Error::Certificate(e.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => Ok((*uri).to_owned()),
        more => Err(Error::UriNames(more.len())),
    }
}

fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<(&'a [u8], X509Certificate<'a>), Error> {
    X509Certificate::from_der(certificate).map_err(|e| Error::Certificate(e.to_string()))
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_uris_parse_and_print_or_are_refused() {
        for (uri, good) in [
            ("spiffe://cluster.local/bookbuyer/bookstore", true),
            ("spiffe://cluster.local/my.account/bookstore", true),
            ("spiffe://cluster.local/bookbuyer/bookstore/", false),
            ("spiffe://cluster.local/bookbuyer", false),
            ("spiffe://cluster.local//bookstore", false),
            ("spiffe:///bookbuyer/bookstore", false),
            ("spiffe://cluster.local/ns/bookstore/sa/bookbuyer", false),
            ("spiffe://Cluster.local/bookbuyer/bookstore", false),
            ("spiffe://cluster.local/book buyer/bookstore", false),
            ("spiffe://cluster.local/bookbuyer/book.store", false),
            ("spiffe://cluster.local/-x/bookstore", false),
            ("https://cluster.local/bookbuyer/bookstore", false),
            ("", false),
        ] {
            match uri.parse::<Identity>() {
                Ok(identity) => {
                    assert!(good, "{uri} was accepted");
                    assert_eq!(identity.uri(), uri);
                }
                Err(error) => assert!(!good, "{uri}: {error}"),
            }
        }
    }

    #[test]
    fn the_dns_name_has_the_service_account_first() {
        let identity = Identity::new("cluster.local", "curl", "demo").unwrap();
        assert_eq!(identity.dns_name(), "curl.demo.cluster.local");
    }
}
