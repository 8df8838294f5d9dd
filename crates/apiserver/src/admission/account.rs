//! The ServiceAccount plug-in: every pod has an account, and its token unless it says otherwise.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Attributes;
use crate::Server;
use crate::object::{self, child, default, objects_mut, text};
use crate::status::{Failure, Outcome};
use crate::store::Key;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The kubelet renews before an hour is over.
const TOKEN_SECONDS: i64 = 3607;
/// The default account of a new namespace is made by a controller a moment after the namespace.
const ACCOUNT_WAIT: Duration = Duration::from_secs(2);

/// Completes a pod that is being made.
pub async fn admit(server: &Server, at: &Attributes<'_>, pod: &mut Value) -> Outcome<()> {
    if pod
        .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
        .is_some()
    {
        return Ok(());
    }
    let spec = child(pod, "spec");
    object::default_text(spec, "serviceAccountName", "default");
    let name = spec["serviceAccountName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    spec.insert("serviceAccount".to_owned(), json!(name));
    let account = find(server, at.namespace, &name).await.ok_or_else(|| {
        let detail = format!(
            "error looking up service account {}/{name}: serviceaccount {name:?} not found",
            at.namespace
        );
        Failure::forbidden("", "pods", object::name(pod), &detail)
    })?;
    let spec = child(pod, "spec");
    let automount = spec
        .get("automountServiceAccountToken")
        .or_else(|| account.get("automountServiceAccountToken"));
    if automount.is_none_or(|a| *a != false) {
        mount(spec);
    }
    if let Some(secrets) = account
        .get("imagePullSecrets")
        .filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
    {
        default(spec, "imagePullSecrets", secrets.clone());
    }
    Ok(())
}

async fn find(server: &Server, namespace: &str, name: &str) -> Option<Arc<Value>> {
    let key = Key::new(&Arc::from("serviceaccounts"), namespace, name);
    let mut changes = server.store.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if let Some((account, _)) = server.store.get(&key) {
                return Some(account);
            }
            if changes.changed().await.is_err() {
                return None;
            }
        }
    };
    tokio::time::timeout(ACCOUNT_WAIT, wait)
        .await
        .ok()
        .flatten()
}

fn mount(spec: &mut Map<String, Value>) {
    let present = |c: &Map<String, Value>| {
        c.get("volumeMounts")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|m| text(m, "/mountPath") == MOUNT_PATH)
    };
    let lists = ["initContainers", "containers"];
    if lists
        .iter()
        .all(|l| objects_mut(spec, l).all(|c| present(c)))
    {
        return;
    }
    let existing = spec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|v| text(v, "/name"))
        .find(|n| n.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let volume = existing.unwrap_or_else(|| {
        let name = format!("kube-api-access-{}", object::suffix());
        default(spec, "volumes", json!([]));
        if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
            volumes.push(projected(&name));
        }
        name
    });
    for list in lists {
        for container in objects_mut(spec, list) {
            if !present(container) {
                default(container, "volumeMounts", json!([]));
                if let Some(mounts) = container
                    .get_mut("volumeMounts")
                    .and_then(Value::as_array_mut)
                {
                    mounts.push(json!({"name": volume, "mountPath": MOUNT_PATH, "readOnly": true}));
                }
            }
        }
    }
}

fn projected(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_added_later_share_the_volume() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        mount(child(&mut pod, "spec"));
        pod["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "sidecar"}));
        mount(child(&mut pod, "spec"));
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert_eq!(volumes.len(), 1);
        for i in 0..2 {
            assert_eq!(
                pod["spec"]["containers"][i]["volumeMounts"][0]["name"],
                volumes[0]["name"]
            );
        }
    }
}
