//! The cluster's keys: CA, server leaf, ServiceAccount signing key; made once, kept in the data folder, and client
//! certificates issued from it.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{ClientUser, StartError};

/// Ten years: the cluster is a development stage, its PKI should outlive it.
const CA_DAYS: i64 = 3650;
/// A year, as kubeadm gives.
const LEAF_DAYS: i64 = 365;

/// The cluster's PKI.
pub struct Pki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    ca_der: CertificateDer<'static>,
    service_account_key: KeyPair,
}

/// A client certificate and its key, PEM.
#[derive(Clone)]
pub struct ClientCredentials {
    /// Certificate.
    pub certificate_pem: String,
    /// PKCS#8 key.
    pub key_pem: String,
}

impl Pki {
    /// Loads the PKI of a data folder or makes it.
    pub fn open(data_dir: &Path) -> Result<Self, StartError> {
        let dir = data_dir.join("pki");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|e| file_error(&dir, e))?;
        let ca_key = load_key(&dir.join("ca.key"))?;
        let certificate = dir.join("ca.crt");
        let ca_pem = match fs::read_to_string(&certificate) {
            Ok(pem) => pem,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let pem = ca_params().self_signed(&ca_key).map_err(pki_error)?.pem();
                write_file(&certificate, &pem)?;
                pem
            }
            Err(e) => return Err(file_error(&certificate, e)),
        };
        let ca_der = der(&ca_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(pki_error)?;
        let service_account_key = load_key(&dir.join("sa.key"))?;
        Ok(Self {
            ca_pem,
            issuer,
            ca_der,
            service_account_key,
        })
    }

    /// The CA certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA certificate, DER.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    /// The key that signs ServiceAccount tokens.
    pub fn service_account_key(&self) -> &KeyPair {
        &self.service_account_key
    }

    /// A fresh server certificate; made at each start, since names and addresses may have changed.
    pub fn server_leaf(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), StartError> {
        let key = KeyPair::generate().map_err(pki_error)?;
        let mut params = leaf_params("kube-apiserver", &[], ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(
                name.as_str().try_into().map_err(pki_error)?,
            ));
        }
        params
            .subject_alt_names
            .extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        let certificate = params.signed_by(&key, &self.issuer).map_err(pki_error)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![certificate.der().clone(), self.ca_der.clone()], key))
    }

    /// A client certificate for a user.
    pub fn issue_client(&self, user: &ClientUser) -> Result<ClientCredentials, StartError> {
        let key = KeyPair::generate().map_err(pki_error)?;
        let params = leaf_params(
            &user.name,
            &user.groups,
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        let certificate = params.signed_by(&key, &self.issuer).map_err(pki_error)?;
        Ok(ClientCredentials {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// A kubeconfig with a freshly issued client certificate.
    pub fn kubeconfig(&self, server_url: &str, user: &ClientUser) -> Result<String, StartError> {
        let credentials = self.issue_client(user)?;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let (ca, certificate, key) = (
            encode(&self.ca_pem),
            encode(&credentials.certificate_pem),
            encode(&credentials.key_pem),
        );
        let name = &user.name;
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: osm-local\npreferences: {{}}\n\
             clusters:\n- name: osm-local\n  cluster:\n    server: {server_url}\n    certificate-authority-data: {ca}\n\
             contexts:\n- name: osm-local\n  context:\n    cluster: osm-local\n    namespace: default\n    user: {name:?}\n\
             users:\n- name: {name:?}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        ))
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    validity(&mut params, CA_DAYS);
    params
}

fn leaf_params(name: &str, groups: &[String], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for group in groups {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(
        &uuid::Uuid::new_v4().as_bytes()[..8],
    ));
    validity(&mut params, LEAF_DAYS);
    params
}

fn validity(params: &mut CertificateParams, days: i64) {
    // An hour back: clocks of neighbours differ.
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
    params.not_after = params.not_before + time::Duration::days(days);
}

fn load_key(path: &Path) -> Result<KeyPair, StartError> {
    match fs::read_to_string(path) {
        Ok(pem) => {
            KeyPair::from_pem(&pem).map_err(|e| StartError::Pki(format!("{}: {e}", path.display())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(pki_error)?;
            write_file(path, &key.serialize_pem())?;
            Ok(key)
        }
        Err(e) => Err(file_error(path, e)),
    }
}

/// Writes beside and renames, so that a kill never leaves half a key.
fn write_file(path: &Path, text: &str) -> Result<(), StartError> {
    let temporary: PathBuf = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| file_error(path, e))
}

fn der(pem: &str) -> Result<CertificateDer<'static>, StartError> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| StartError::Pki(format!("ca.crt: {e:?}")))
}

fn pki_error(error: impl std::fmt::Display) -> StartError {
    StartError::Pki(error.to_string())
}

fn file_error(path: &Path, source: std::io::Error) -> StartError {
    StartError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pki_survives_a_restart_and_issues_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path()).unwrap();
        let second = Pki::open(dir.path()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        let client = second.issue_client(&ClientUser::admin()).unwrap();
        let der = der(&client.certificate_pem).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
        let (_, ca) = x509_parser::parse_x509_certificate(first.ca_der()).unwrap();
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert!(!leaf.is_ca());
        assert_eq!(
            leaf.subject()
                .iter_organization()
                .next()
                .unwrap()
                .as_str()
                .unwrap(),
            "system:masters"
        );
    }
}
