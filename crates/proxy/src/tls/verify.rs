//! Whom the configuration trusts: the chain, pinned certificates and keys, then the names.

use std::sync::Arc;

use ca::{Chain, Judge, Presented, fingerprint};
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};

use super::names::{Names, key, names};
use super::{NameMatch, TlsError, Validation};

/// The judge of a validation context.
#[derive(Debug)]
pub(super) struct Peers {
    chains: Chains,
    names: Vec<NameMatch>,
    certificates: Vec<[u8; 32]>,
    keys: Vec<[u8; 32]>,
    /// A server must also be valid for the server name that was sent.
    by_server_name: bool,
}

#[derive(Debug)]
enum Chains {
    One(Chain),
    /// By trust domain.
    Domains(Vec<(Arc<str>, Chain)>),
}

impl Peers {
    pub(super) fn new(validation: Validation, by_server_name: bool) -> Result<Peers, TlsError> {
        let lists = validation.revocations;
        let chain = |roots: Arc<RootCertStore>| {
            Chain::new(roots).with_revocations(lists.clone(), validation.revocation_of_leaf_only)
        };
        let chains = match (validation.domains.as_slice(), validation.roots) {
            ([], None) => return Err(TlsError::NoRoots),
            ([], Some(roots)) => Chains::One(chain(roots)),
            (domains, _) => {
                let domains = domains.iter();
                Chains::Domains(
                    domains
                        .map(|(name, roots)| (name.clone(), chain(roots.clone())))
                        .collect(),
                )
            }
        };
        Ok(Peers {
            chains,
            names: validation.names,
            certificates: validation.certificates,
            keys: validation.keys,
            by_server_name,
        })
    }

    /// One of the pinned certificates or keys, if any is pinned.
    fn is_pinned(&self, leaf: &CertificateDer<'_>) -> bool {
        if self.certificates.is_empty() && self.keys.is_empty() {
            return true;
        }
        self.certificates.contains(&fingerprint(leaf))
            || key(leaf).is_some_and(|key| self.keys.contains(&fingerprint(&key)))
    }

    fn chain(&self, leaf: &CertificateDer<'_>) -> Result<&Chain, Error> {
        let domains = match &self.chains {
            Chains::One(chain) => return Ok(chain),
            Chains::Domains(domains) => domains,
        };
        let found = names(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let domain = trust_domain(&found);
        domains
            .iter()
            .find(|(name, _)| Some(&**name) == domain.as_deref())
            .map(|(_, chain)| chain)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }
}

/// The trust domain of the one SPIFFE id, in lower case.
fn trust_domain(names: &Names) -> Option<String> {
    let [uri] = names.uris.as_slice() else {
        return None;
    };
    let rest = uri.strip_prefix("spiffe://")?;
    let (domain, _) = rest.split_once('/')?;
    Some(domain.to_ascii_lowercase())
}

impl Judge for Peers {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), Error> {
        let Presented {
            leaf,
            intermediates,
            ..
        } = presented;
        self.chain(leaf)?
            .verify(presented.purpose, leaf, intermediates, presented.now)?;
        if !self.is_pinned(leaf) {
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        }
        if self.by_server_name
            && let Some(name @ ServerName::DnsName(_)) = presented.server_name
        {
            verify_server_name(&ParsedCertificate::try_from(*leaf)?, name)?;
        }
        check_names(leaf, &self.names)
    }
}

fn check_names(certificate: &CertificateDer<'_>, wanted: &[NameMatch]) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let found =
        names(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    // One URI at most: a second could be another workload's.
    if found.uris.len() <= 1 && found.satisfy(wanted) {
        Ok(())
    } else {
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
    }
}
