//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::key::{During, Failure, Key, has_code, has_reason};
use crate::queue::{Next, Queue, work};
use crate::watch::Store;

pub(crate) const SERVICE_ACCOUNT: &str = "default";
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_FILE: &str = "ca.crt";

/// The objects as last seen.
pub(crate) struct Seen {
    pub namespaces: Arc<Store<Namespace>>,
    pub accounts: Arc<Store<ServiceAccount>>,
    pub root_cas: Arc<Store<ConfigMap>>,
}

/// Runs the controller for ever; keys are namespaces.
pub(crate) async fn run(
    client: Client,
    seen: Arc<Seen>,
    root_ca_pem: String,
    queue: Arc<Queue<Key>>,
) {
    seen.namespaces.synced().await;
    seen.accounts.synced().await;
    seen.root_cas.synced().await;
    let root_ca_pem: Arc<str> = root_ca_pem.into();
    work("namespace-defaults", queue, |key| {
        reconcile(client.clone(), seen.clone(), root_ca_pem.clone(), key.name)
    })
    .await;
}

async fn reconcile(
    client: Client,
    seen: Arc<Seen>,
    root_ca_pem: Arc<str>,
    namespace: String,
) -> Result<Next, Failure> {
    let there = seen.namespaces.get(&Key::new("", &namespace));
    if there.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        return Ok(Next::Wait);
    }
    if seen
        .accounts
        .get(&Key::new(&namespace, SERVICE_ACCOUNT))
        .is_none()
    {
        let account = ServiceAccount {
            metadata: named(SERVICE_ACCOUNT),
            ..ServiceAccount::default()
        };
        let made = Api::namespaced(client.clone(), &namespace)
            .create(&PostParams::default(), &account)
            .await;
        settled(made).during(|| format!("create ServiceAccount {namespace}/{SERVICE_ACCOUNT}"))?;
    }
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    match seen.root_cas.get(&Key::new(&namespace, ROOT_CA)) {
        None => {
            let data = [(ROOT_CA_FILE.to_owned(), root_ca_pem.to_string())];
            let map = ConfigMap {
                metadata: named(ROOT_CA),
                data: Some(data.into()),
                ..ConfigMap::default()
            };
            let made = maps.create(&PostParams::default(), &map).await;
            settled(made).during(|| format!("create ConfigMap {namespace}/{ROOT_CA}"))?;
        }
        Some(map)
            if map
                .data
                .as_ref()
                .and_then(|data| data.get(ROOT_CA_FILE))
                .map(String::as_str)
                != Some(&*root_ca_pem) =>
        {
            let patch = Patch::Merge(json!({"data": {ROOT_CA_FILE: &*root_ca_pem}}));
            let patched = maps.patch(ROOT_CA, &PatchParams::default(), &patch).await;
            settled(patched).during(|| format!("write ConfigMap {namespace}/{ROOT_CA}"))?;
        }
        Some(_) => {}
    }
    Ok(Next::Wait)
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// It is there already, or the namespace goes: the watch brings whatever follows.
fn settled<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error)
            if has_reason(&error, "AlreadyExists")
                || has_code(&error, 403)
                || has_code(&error, 404) =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}
