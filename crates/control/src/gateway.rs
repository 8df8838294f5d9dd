//! The client certificate of ingress gateways: issued into the Secret that the MeshConfig names, and renewed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use api::config::v1alpha2::MeshConfigSpec;
use ca::{Authority, CertificateFacts};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};

use crate::world::Worlds;

/// Validity where the MeshConfig says nothing, as upstream.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// How often the Secret is looked at: somebody may have deleted it.
const LOOK: Duration = Duration::from_secs(60);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

const ROOT: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";

/// Who writes the Secret's fields.
const MANAGER: &str = "osm-controller";

/// The MeshConfig's `certificate.ingressGateway`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayCertificate {
    /// The name in the certificate: the first that is listed, as upstream.
    name: String,
    validity: Duration,
    secret: (String, String),
}

// === impl GatewayCertificate ===

impl GatewayCertificate {
    /// What is asked for; `Err` names the field that cannot be read.
    pub(crate) fn new(spec: &MeshConfigSpec) -> Result<Option<Self>, String> {
        let certificate = spec.certificate.as_ref();
        let Some(asked) = certificate.and_then(|certificate| certificate.ingress_gateway.as_ref())
        else {
            return Ok(None);
        };
        let field = |name: &str, problem: &str| {
            format!(
                "MeshConfig spec.certificate.ingressGateway.{name} {problem}: no certificate is issued"
            )
        };
        let name = asked.subject_alt_names.first();
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| field("subjectAltNames", "is empty"))?;
        let validity = match asked.validity_duration.as_str() {
            "" => DEFAULT_VALIDITY,
            text => api::duration::parse(text)
                .ok()
                .filter(|validity| !validity.is_zero())
                .ok_or_else(|| field("validityDuration", "is not a duration"))?,
        };
        let secret = &asked.secret;
        if secret.name.is_empty() || secret.namespace.is_empty() {
            return Err(field("secret", "wants a name and a namespace"));
        }
        Ok(Some(Self {
            name: name.clone(),
            validity,
            secret: (secret.namespace.clone(), secret.name.clone()),
        }))
    }

    /// When the certificate in the Secret is to be replaced; now, if it is not what is asked for.
    fn due(&self, secret: Option<&Secret>, root: &str, now: SystemTime) -> SystemTime {
        let data = secret.and_then(|secret| secret.data.as_ref());
        let entry = |key: &str| -> Option<&str> {
            let ByteString(bytes) = data?.get(key)?;
            std::str::from_utf8(bytes).ok()
        };
        let Some(facts) = entry(CERTIFICATE).and_then(|pem| CertificateFacts::from_pem(pem).ok())
        else {
            return now;
        };
        let ours = entry(ROOT) == Some(root)
            && entry(PRIVATE_KEY).is_some()
            && facts.dns_names == [self.name.as_str()];
        // At two thirds of its life, as sidecars renew theirs.
        let due = facts.not_after.checked_sub(self.validity / 3);
        match due {
            Some(due) if ours => due,
            _ => now,
        }
    }

    fn secret(&self, authority: &Authority, now: SystemTime) -> Result<Secret, ca::Error> {
        let leaf = authority.issue_server(&[&self.name], self.validity, now)?;
        let entry = |key: &str, text: &str| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
        Ok(Secret {
            metadata: ObjectMeta {
                namespace: Some(self.secret.0.clone()),
                name: Some(self.secret.1.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(BTreeMap::from([
                entry(ROOT, authority.certificate_pem()),
                entry(CERTIFICATE, &leaf.chain_pem),
                entry(PRIVATE_KEY, &leaf.key.to_pem()),
            ])),
            ..Secret::default()
        })
    }

    /// Sees to it that the Secret holds a certificate that is good for some time, and says when to look again.
    async fn ensure(&self, client: &Client, authority: &Authority) -> anyhow::Result<Duration> {
        let (namespace, name) = &self.secret;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let place = || format!("Secret {namespace}/{name} of spec.certificate.ingressGateway");
        let present = secrets.get_opt(name).await.with_context(place)?;
        let now = SystemTime::now();
        let mut due = self.due(present.as_ref(), authority.certificate_pem(), now);
        if due <= now {
            let secret = self.secret(authority, now)?;
            let parameters = PatchParams::apply(MANAGER).force();
            secrets
                .patch(name, &parameters, &Patch::Apply(&secret))
                .await
                .with_context(place)?;
            tracing::info!(%namespace, secret = %name, san = %self.name, "issued the ingress gateway's certificate");
            due = self.due(Some(&secret), authority.certificate_pem(), now);
        }
        // A validity of seconds is renewed in time, too.
        let left = due.duration_since(now).unwrap_or_default();
        Ok(left.clamp(Duration::from_millis(100), LOOK))
    }
}

/// Issues and renews until the program ends. Without the MeshConfig's wish the Secret stays as it is.
pub(crate) async fn run(
    client: Client,
    authority: Arc<Authority>,
    mut worlds: Worlds,
) -> anyhow::Result<()> {
    loop {
        let world = worlds.current();
        let wanted = world.and_then(|world| world.settings.gateway.clone());
        let pause = match wanted {
            None => None,
            Some(wanted) => match wanted.ensure(&client, &authority).await {
                Ok(pause) => Some(pause),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "trying again");
                    Some(RETRY)
                }
            },
        };
        let pause = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = worlds.changed() => {}
            () = pause => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(gateway: serde_json::Value) -> MeshConfigSpec {
        let certificate = json!({ "serviceCertValidityDuration": "24h", "certKeyBitSize": 2048, "ingressGateway": gateway });
        serde_json::from_value(json!({ "certificate": certificate })).unwrap()
    }

    fn wanted(names: &[&str]) -> GatewayCertificate {
        let secret = json!({ "name": "client-cert", "namespace": "osm-system" });
        let gateway =
            json!({ "subjectAltNames": names, "validityDuration": "3h", "secret": secret });
        GatewayCertificate::new(&spec(gateway)).unwrap().unwrap()
    }

    #[test]
    fn fields_that_cannot_be_read_are_named() {
        assert_eq!(
            GatewayCertificate::new(&MeshConfigSpec::default()),
            Ok(None)
        );
        let secret = json!({ "name": "s", "namespace": "n" });
        for (gateway, part) in [
            (
                json!({ "subjectAltNames": [], "validityDuration": "1h", "secret": secret }),
                "subjectAltNames is empty",
            ),
            (
                json!({ "subjectAltNames": ["a"], "validityDuration": "soon", "secret": secret }),
                "validityDuration is not a duration",
            ),
            (
                json!({ "subjectAltNames": ["a"], "validityDuration": "1h", "secret": { "name": "", "namespace": "n" } }),
                "secret wants",
            ),
        ] {
            let error = GatewayCertificate::new(&spec(gateway)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn ing_14_a_certificate_is_replaced_at_two_thirds_of_its_life_or_when_names_or_roots_change() {
        let now = SystemTime::now();
        let hours = |count: u64| Duration::from_secs(count * 3600);
        let authority = Authority::generate(now).unwrap();
        let wanted = wanted(&["gateway.edge.cluster.local", "ignored"]);
        let root = authority.certificate_pem();
        assert_eq!(wanted.due(None, root, now), now);
        let secret = wanted.secret(&authority, now).unwrap();
        assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
        let due = wanted.due(Some(&secret), root, now);
        assert!(
            due > now + hours(2) - hours(1) / 60 && due <= now + hours(2),
            "{due:?}"
        );

        let renamed = self::wanted(&["other.edge.cluster.local"]);
        assert_eq!(renamed.due(Some(&secret), root, now), now);
        let other = Authority::generate(now).unwrap();
        assert_eq!(wanted.due(Some(&secret), other.certificate_pem(), now), now);
        let mut broken = secret.clone();
        broken.data.as_mut().unwrap().remove(PRIVATE_KEY);
        assert_eq!(wanted.due(Some(&broken), root, now), now);
    }
}
