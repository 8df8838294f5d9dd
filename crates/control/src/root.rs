//! The mesh's root in its Secret: read it, or make it exactly once.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ca::Authority;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::CommonArgs;

/// Key of the root certificate in the Secret.
const CERTIFICATE: &str = "ca.crt";
/// Key of the root's private key in the Secret.
const PRIVATE_KEY: &str = "private.key";

/// How long the programs try to get at the Secret when they start.
const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// Validity of the certificates of the control plane's own servers, as upstream's: 87600 h
/// (never beyond the root's).
pub(crate) const SERVER_VALIDITY: Duration = ca::ROOT_VALIDITY;

/// Loads the root, or makes it. Of several programs starting together one creates the Secret and
/// the others read it.
pub(crate) async fn load_or_create(
    client: &Client,
    args: &CommonArgs,
) -> anyhow::Result<Authority> {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        match attempt(client, args).await {
            Ok(authority) => return Ok(authority),
            Err(error) if tokio::time::Instant::now() >= end || is_final(&error) => {
                return Err(error);
            }
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "root certificate, trying again"
            ),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A Secret with bad content does not get better by trying again.
fn is_final(error: &anyhow::Error) -> bool {
    error.downcast_ref::<kube::Error>().is_none()
}

async fn attempt(client: &Client, args: &CommonArgs) -> anyhow::Result<Authority> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &args.osm_namespace);
    let name = &args.ca_bundle_secret_name;
    if let Some(secret) = secrets.get_opt(name).await? {
        return read(&secret, args);
    }
    let authority = Authority::generate(SystemTime::now())?;
    match secrets
        .create(&PostParams::default(), &secret(&authority, args))
        .await
    {
        Ok(_) => {
            tracing::info!(
                secret = name,
                namespace = args.osm_namespace,
                "made the mesh's root certificate"
            );
            Ok(authority)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let secret = secrets.get(name).await?;
            read(&secret, args)
        }
        Err(error) => Err(error.into()),
    }
}

fn read(secret: &Secret, args: &CommonArgs) -> anyhow::Result<Authority> {
    let place = format!(
        "Secret {}/{}",
        args.osm_namespace, args.ca_bundle_secret_name
    );
    let entry = |key: &str| -> anyhow::Result<&str> {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        let bytes = data.with_context(|| format!("{place}: no data.{key}"))?;
        std::str::from_utf8(&bytes.0).with_context(|| format!("{place}: data.{key} is not text"))
    };
    Authority::from_pem(entry(CERTIFICATE)?, entry(PRIVATE_KEY)?).with_context(|| place.clone())
}

fn secret(authority: &Authority, args: &CommonArgs) -> Secret {
    let data = BTreeMap::from([
        (
            CERTIFICATE.to_owned(),
            ByteString(authority.certificate_pem().into()),
        ),
        (
            PRIVATE_KEY.to_owned(),
            ByteString(authority.key().to_pem().as_bytes().to_vec()),
        ),
    ]);
    let mut secret = Secret {
        data: Some(data),
        type_: Some("Opaque".into()),
        ..Secret::default()
    };
    secret.metadata.name = Some(args.ca_bundle_secret_name.clone());
    secret.metadata.namespace = Some(args.osm_namespace.clone());
    secret.metadata.labels = Some(args.labels());
    secret
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;
    use crate::fake_api::{self, failure};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        args: CommonArgs,
    }

    fn args() -> CommonArgs {
        Program::parse_from(["x"]).args
    }

    fn stored(authority: &Authority) -> Value {
        serde_json::to_value(secret(authority, &args())).unwrap()
    }

    #[tokio::test]
    async fn the_loser_of_a_race_uses_the_winners_root() {
        let winner = Authority::generate(SystemTime::now()).unwrap();
        let (secret, pem) = (stored(&winner), winner.certificate_pem().to_owned());
        let (client, asked) = fake_api::client(move |number, _| match number {
            0 => failure(404, "NotFound"),
            1 => failure(409, "AlreadyExists"),
            _ => (200, vec![secret.clone()]),
        });
        let got = load_or_create(&client, &args()).await.unwrap();
        assert_eq!(got.certificate_pem(), pem);
        let asked = asked.lock().unwrap().clone();
        let verbs: Vec<&str> = asked
            .iter()
            .filter_map(|what| what.split(' ').next())
            .collect();
        assert_eq!(verbs, ["GET", "POST", "GET"]);
    }

    #[tokio::test]
    async fn a_secret_that_is_no_root_is_named_with_its_key_and_not_retried() {
        for (data, message) in [
            (json!({}), "Secret osm-system/osm-ca-bundle: no data.ca.crt"),
            (
                json!({ "ca.crt": "eA==" }),
                "Secret osm-system/osm-ca-bundle: no data.private.key",
            ),
            (
                json!({ "ca.crt": "eA==", "private.key": "eA==" }),
                "Secret osm-system/osm-ca-bundle: private key: expected",
            ),
        ] {
            let secret = json!({ "metadata": { "name": "osm-ca-bundle" }, "data": data });
            let (client, asked) = fake_api::client(move |_, _| (200, vec![secret.clone()]));
            let error = load_or_create(&client, &args()).await.err().unwrap();
            assert!(format!("{error:#}").starts_with(message), "{error:#}");
            assert_eq!(asked.lock().unwrap().len(), 1);
        }
    }
}
