//! The proxy's own certificate: key in the pod, request to the control plane, renewal before it ends.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use xds::certificate::{CertificateClient, CertificateRequest, CertificateResponse};

use crate::control_plane::{ControlPlane, backoff};
use crate::settings::Settings;
use crate::stats::Stats;
use crate::worker::roll;

/// One request, connecting included.
const REQUEST: Duration = Duration::from_secs(10);
/// A token is about a kilobyte; whatever is larger is none.
const TOKEN: u64 = 64 << 10;
/// The shortest wait between two certificates, however short their life.
const SHORTEST: Duration = Duration::from_secs(1);

/// A certificate with the key that was made for it.
pub struct Issued {
    /// The leaf, and what stands between it and a root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The same, PEM.
    pub chain_pem: String,
    /// The leaf's key.
    pub key: ca::PrivateKey,
    /// Its end.
    not_after: SystemTime,
}

/// Gets a certificate and renews it for ever; each goes to `take`.
pub async fn keep(
    settings: &Settings,
    plane: &ControlPlane,
    stats: &Stats,
    take: impl Fn(&Issued) -> anyhow::Result<()>,
) {
    let mut failures = 0u32;
    loop {
        let requested = match timeout(REQUEST, request(settings, plane)).await {
            Ok(requested) => requested,
            Err(_) => Err(anyhow!("no answer within {REQUEST:?}")),
        };
        let taken = requested.and_then(|issued| take(&issued).map(|()| issued.not_after));
        let wait = match taken {
            Ok(not_after) => {
                stats.server.certificates.increment();
                failures = 0;
                let left = not_after
                    .duration_since(SystemTime::now())
                    .unwrap_or_default();
                let days = i64::try_from(left.as_secs() / 86_400).unwrap_or(i64::MAX);
                stats.server.certificate_days.set(days);
                let wait = renewal(left, roll());
                info!(valid_for = ?left, renewed_in = ?wait, "certificate received");
                wait
            }
            Err(error) => {
                let wait = backoff(failures, roll());
                failures = failures.saturating_add(1);
                warn!(error = format!("{error:#}"), retry_in = ?wait, "no certificate");
                wait
            }
        };
        sleep(wait).await;
    }
}

/// Two thirds of the life that is left, up to a tenth sooner so that a mesh's sidecars do not come all at once.
fn renewal(left: Duration, roll: u64) -> Duration {
    let thousandths = u32::try_from(600 + roll % 67).unwrap_or(600);
    (left.saturating_mul(thousandths) / 1000).max(SHORTEST)
}

async fn request(settings: &Settings, plane: &ControlPlane) -> anyhow::Result<Issued> {
    let token = token(&settings.token_path).await?;
    let identity = ca::Identity::new(
        &settings.trust_domain,
        &settings.service_account,
        &settings.namespace,
    )?;
    let key = ca::PrivateKey::generate()?;
    let csr = key.signing_request(&identity)?;
    // Without a client certificate: an old one must not stand in the way of a new one.
    let channel = plane.connect(false).await?;
    let response = CertificateClient::new(channel)
        .create_certificate(
            CertificateRequest {
                csr,
                validity_duration: 0,
            },
            &token,
        )
        .await
        .map_err(|status| {
            anyhow!(
                "the certificate service answered {:?}: {}",
                status.code(),
                status.message()
            )
        })?;
    let (chain, chain_pem) = below_root(&response, plane)?;
    let leaf = chain
        .first()
        .ok_or_else(|| anyhow!("the certificate service sent no certificate"))?;
    let names = crate::tls::names(leaf)
        .context("the certificate service sent something else than a certificate")?;
    if names.uris != [identity.uri()] {
        bail!(
            "the certificate is for {:?}, not for {}",
            names.uris,
            identity.uri()
        );
    }
    let not_after = ca::server_leaf_not_after(leaf)?;
    Ok(Issued {
        chain,
        chain_pem,
        key,
        not_after,
    })
}

/// The chain without the root, which is known to everybody who would believe it.
fn below_root(
    response: &CertificateResponse,
    plane: &ControlPlane,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, String)> {
    let mut chain = Vec::new();
    let mut chain_pem = String::new();
    for pem in &response.cert_chain {
        let mut certificates = ca::parse_certificates(pem)?;
        let count = certificates.len();
        certificates.retain(|certificate| !plane.is_root(certificate));
        if certificates.len() == count {
            chain_pem.push_str(pem.trim());
            chain_pem.push('\n');
        } else if !certificates.is_empty() {
            bail!("the certificate service sent a root and others in one element of the chain");
        }
        chain.extend(certificates);
    }
    Ok((chain, chain_pem))
}

// === impl Issued ===

impl Issued {
    /// As rustls takes it.
    pub fn certified(&self) -> anyhow::Result<CertifiedKey> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(self.chain.clone(), self.key.to_rustls(), &provider)
            .context("certificate and key")
    }
}

async fn token(path: &Path) -> anyhow::Result<String> {
    let size = tokio::fs::metadata(path)
        .await
        .with_context(|| format!("token {}", path.display()))?
        .len();
    if size == 0 || size > TOKEN {
        bail!("token {} has {size} bytes", path.display());
    }
    let token = tokio::fs::read_to_string(path)
        .await
        .with_context(|| format!("token {}", path.display()))?;
    Ok(token.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_after_three_fifths_and_before_two_thirds_of_the_life() {
        let day = Duration::from_secs(86_400);
        for roll in [0, 1, 33, 66, 67, u64::MAX] {
            let wait = renewal(day, roll);
            assert!(
                wait >= day * 60 / 100 && wait <= day * 667 / 1000,
                "{wait:?}"
            );
        }
        assert_eq!(renewal(Duration::ZERO, 0), SHORTEST);
    }
}
