//! Whom a TLS end trusts: swappable roots and the judges of both directions.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error as TlsError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::identity::uri_name;
use crate::{Chain, Error, Judge, Presented, Verifier};

/// The provider of cryptography used by this crate.
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Reads all certificates of a PEM bundle.
pub fn parse_certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::Certificate(e.to_string()))
}

/// Trusted roots that can be replaced while verifiers use them.
#[derive(Debug)]
pub struct TrustStore {
    chain: RwLock<Chain>,
}

/// Server side: the peer must (or may) show a certificate that a trusted root signed.
/// Who it is, is read afterwards with [`crate::peer_identity`].
pub type ClientVerifier = Verifier<Clients>;

/// Client side: the server's chain must end in a trusted root and its name be one we expect.
pub type ServerVerifier = Verifier<Servers>;

/// Any client whose chain ends in a trusted root.
#[derive(Debug)]
pub struct Clients(Arc<TrustStore>);

/// Servers we expect.
#[derive(Debug)]
pub struct Servers {
    store: Arc<TrustStore>,
    expected: Expected,
}

#[derive(Debug)]
enum Expected {
    /// The one URI name must be among these. An empty list refuses everybody.
    Uris(Vec<String>),
    /// A DNS name must match.
    Dns(ServerName<'static>),
}

// === impl TrustStore ===

impl TrustStore {
    /// Trusts the certificates of the bundle.
    pub fn from_pem(pem: &str) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            chain: RwLock::new(chain(pem)?),
        }))
    }

    /// Replaces the roots; handshakes that start from now on use them.
    pub fn replace(&self, pem: &str) -> Result<(), Error> {
        let new = chain(pem)?;
        *self.chain.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The roots as rustls wants them.
    pub fn roots(&self) -> Arc<RootCertStore> {
        self.current().roots().clone()
    }

    fn current(&self) -> Chain {
        self.chain
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn verify(&self, presented: &Presented<'_>) -> Result<(), TlsError> {
        self.current().verify(
            presented.purpose,
            presented.leaf,
            presented.intermediates,
            presented.now,
        )
    }
}

fn chain(pem: &str) -> Result<Chain, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(pem)? {
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(Error::Certificate(
            "the trust bundle holds no certificate".into(),
        ));
    }
    Ok(Chain::new(Arc::new(roots)))
}

// === impl ClientVerifier ===

impl ClientVerifier {
    /// A client certificate is required.
    pub fn required(store: Arc<TrustStore>) -> Arc<Self> {
        Arc::new(Verifier::new(Clients(store), true))
    }

    /// A client certificate is asked for; if there is one it must be good.
    pub fn optional(store: Arc<TrustStore>) -> Arc<Self> {
        Arc::new(Verifier::new(Clients(store), false))
    }
}

impl Judge for Clients {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), TlsError> {
        self.0.verify(presented)
    }
}

// === impl ServerVerifier ===

impl ServerVerifier {
    /// Expects the server's one URI name to be among `allowed`; an empty list refuses everybody.
    pub fn uris(store: Arc<TrustStore>, allowed: Vec<String>) -> Arc<Self> {
        let expected = Expected::Uris(allowed);
        Arc::new(Verifier::new(Servers { store, expected }, true))
    }

    /// Expects a DNS name.
    pub fn dns(store: Arc<TrustStore>, name: &str) -> Result<Arc<Self>, Error> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Error::Certificate(format!("{name:?} is not a DNS name")))?;
        let expected = Expected::Dns(name);
        Ok(Arc::new(Verifier::new(Servers { store, expected }, true)))
    }
}

impl Judge for Servers {
    fn judge(&self, presented: &Presented<'_>) -> Result<(), TlsError> {
        self.store.verify(presented)?;
        match &self.expected {
            Expected::Dns(name) => {
                verify_server_name(&ParsedCertificate::try_from(presented.leaf)?, name)
            }
            Expected::Uris(allowed) => {
                let uri = uri_name(presented.leaf).map_err(|e| TlsError::General(e.to_string()))?;
                if allowed.contains(&uri) {
                    Ok(())
                } else {
                    Err(TlsError::InvalidCertificate(
                        CertificateError::NotValidForName,
                    ))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

    use super::*;
    use crate::{Authority, Identity, Leaf, peer_identity};

    const DAY: Duration = Duration::from_secs(86_400);

    fn identity(name: &str) -> Identity {
        Identity::new("cluster.local", name, "demo").unwrap()
    }

    /// A handshake in memory; the answer is what the server takes the client for.
    fn handshake(
        server: &Leaf,
        clients: Arc<ClientVerifier>,
        client: Option<&Leaf>,
        servers: Arc<ServerVerifier>,
    ) -> Result<Option<Identity>, TlsError> {
        let resolver = rustls::sign::SingleCertAndKey::from(server.certified_key().unwrap());
        let server_config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(resolver));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(servers);
        let client_config = match client {
            Some(leaf) => {
                builder.with_client_auth_cert(leaf.chain.clone(), leaf.key.to_rustls())?
            }
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("ignored.example").unwrap();
        let mut client = ClientConnection::new(Arc::new(client_config), name)?;
        let mut server = ServerConnection::new(Arc::new(server_config))?;
        for _ in 0..10 {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        Ok(peer_identity(&server).map(Result::unwrap))
    }

    #[test]
    fn each_end_accepts_exactly_whom_it_expects() {
        let now = SystemTime::now();
        let mesh = Authority::generate(now).unwrap();
        let other = Authority::generate(now).unwrap();
        let trust = TrustStore::from_pem(mesh.certificate_pem()).unwrap();
        let leaf = |authority: &Authority, name: &str| {
            authority.issue_workload(&identity(name), DAY, now).unwrap()
        };
        let (server, client, stranger) = (
            leaf(&mesh, "server"),
            leaf(&mesh, "client"),
            leaf(&other, "client"),
        );
        let expired = mesh
            .issue_workload(&identity("client"), DAY, now - DAY * 2)
            .unwrap();
        let uris = |names: &[&str]| {
            ServerVerifier::uris(
                trust.clone(),
                names.iter().map(|n| identity(n).uri()).collect(),
            )
        };
        let required = || ClientVerifier::required(trust.clone());
        let optional = || ClientVerifier::optional(trust.clone());
        for (what, clients, client, servers, expected) in [
            (
                "both known",
                required(),
                Some(&client),
                uris(&["server"]),
                Ok(Some("client")),
            ),
            (
                "one of several",
                required(),
                Some(&client),
                uris(&["x", "server"]),
                Ok(Some("client")),
            ),
            (
                "another server",
                required(),
                Some(&client),
                uris(&["x"]),
                Err(()),
            ),
            (
                "nobody allowed",
                required(),
                Some(&client),
                uris(&[]),
                Err(()),
            ),
            (
                "no certificate",
                required(),
                None,
                uris(&["server"]),
                Err(()),
            ),
            (
                "no certificate needed",
                optional(),
                None,
                uris(&["server"]),
                Ok(None),
            ),
            (
                "bad one where none is needed",
                optional(),
                Some(&stranger),
                uris(&["server"]),
                Err(()),
            ),
            (
                "other mesh",
                required(),
                Some(&stranger),
                uris(&["server"]),
                Err(()),
            ),
            (
                "expired",
                required(),
                Some(&expired),
                uris(&["server"]),
                Err(()),
            ),
        ] {
            let got = handshake(&server, clients, client, servers).map_err(drop);
            assert_eq!(
                got,
                expected.map(|name: Option<&str>| name.map(identity)),
                "{what}"
            );
        }
    }

    #[test]
    fn a_control_plane_server_is_known_by_its_dns_name() {
        let now = SystemTime::now();
        let mesh = Authority::generate(now).unwrap();
        let trust = TrustStore::from_pem(mesh.certificate_pem()).unwrap();
        let server = mesh
            .issue_server(&["osm-controller.osm-system.svc"], DAY, now)
            .unwrap();
        for (name, good) in [
            ("osm-controller.osm-system.svc", true),
            ("osm-injector.osm-system.svc", false),
        ] {
            let verifier = ServerVerifier::dns(trust.clone(), name).unwrap();
            let got = handshake(
                &server,
                ClientVerifier::optional(trust.clone()),
                None,
                verifier,
            );
            assert_eq!(got.is_ok(), good, "{name}");
        }
    }

    #[test]
    fn replaced_roots_count_from_the_next_handshake_on() {
        let now = SystemTime::now();
        let (old, new) = (
            Authority::generate(now).unwrap(),
            Authority::generate(now).unwrap(),
        );
        let trust = TrustStore::from_pem(old.certificate_pem()).unwrap();
        let client = new.issue_workload(&identity("client"), DAY, now).unwrap();
        let server = new.issue_workload(&identity("server"), DAY, now).unwrap();
        let verifier = || ServerVerifier::uris(trust.clone(), vec![identity("server").uri()]);
        let clients = ClientVerifier::required(trust.clone());
        assert!(handshake(&server, clients.clone(), Some(&client), verifier()).is_err());
        trust
            .replace(&format!(
                "{}{}",
                old.certificate_pem(),
                new.certificate_pem()
            ))
            .unwrap();
        assert!(handshake(&server, clients, Some(&client), verifier()).is_ok());
        assert!(
            trust.replace("").is_err(),
            "an empty bundle would lock everybody out"
        );
    }
}
