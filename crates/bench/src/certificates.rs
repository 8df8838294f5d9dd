//! The mesh's root and the two workloads' leafs: ECDSA P-256, as the control plane issues them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ca::{Authority, Identity};

use crate::mesh::{CLIENT, NAMESPACE, SERVER, TRUST_DOMAIN};

/// Longer than any run.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// What the proxies show and trust.
#[derive(Debug)]
pub struct Certificates {
    /// The root's certificate, PEM.
    pub root: String,
    /// The outbound proxy's.
    pub client: Leaf,
    /// The inbound proxy's.
    pub server: Leaf,
}

/// A certificate and its key, PEM.
#[derive(Debug)]
pub struct Leaf {
    /// The certificate.
    pub chain: String,
    /// The key.
    pub key: String,
    /// The DNS name beside the SPIFFE name.
    pub dns_name: String,
}

/// Where the certificates are for proxies that read files.
#[derive(Debug, Clone)]
pub struct Files {
    /// The root.
    pub root: PathBuf,
    /// The client's certificate and key in one file.
    pub client: PathBuf,
    /// The server's.
    pub server: PathBuf,
    /// The name by which peers without SPIFFE know the server.
    pub server_name: String,
}

// === impl Certificates ===

impl Certificates {
    /// A new mesh's.
    pub fn issue() -> anyhow::Result<Certificates> {
        let now = SystemTime::now();
        let authority = Authority::generate(now)?;
        let leaf = |account: &str| -> anyhow::Result<Leaf> {
            let identity = Identity::new(TRUST_DOMAIN, account, NAMESPACE)?;
            let key = ca::PrivateKey::generate()?;
            let request = key.signing_request(&identity)?;
            let chain = authority.sign_request(&request, &identity, VALIDITY, now)?;
            Ok(Leaf {
                chain: chain.concat(),
                key: key.to_pem().to_string(),
                dns_name: identity.dns_name(),
            })
        };
        Ok(Certificates {
            root: authority.certificate_pem().to_owned(),
            client: leaf(CLIENT)?,
            server: leaf(SERVER)?,
        })
    }

    /// Writes them into a folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<Files> {
        let put = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let both = |leaf: &Leaf| format!("{}{}", leaf.chain, leaf.key);
        Ok(Files {
            root: put("root.pem", &self.root)?,
            client: put("client.pem", &both(&self.client))?,
            server: put("server.pem", &both(&self.server))?,
            server_name: self.server.dns_name.clone(),
        })
    }
}
