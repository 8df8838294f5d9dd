//! Creating and deleting the chart's objects, whatever their kind, on any Kubernetes from 1.20 on.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow, bail};
use api::labels::{APP_NAME, APP_NAME_VALUE};
use http::Request;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use serde_json::Value;

use crate::cluster::{explain, is_absent};

/// One object of the chart, as the cluster knows it.
#[derive(Clone, Debug)]
pub struct Applied {
    resource: ApiResource,
    namespace: Option<String>,
    name: String,
    /// It was not there before.
    pub is_new: bool,
}

/// Applies objects to one cluster; remembers what the cluster calls each kind.
pub struct Applier {
    client: Client,
    kinds: BTreeMap<(String, String), (ApiResource, Scope)>,
}

// === impl Applier ===

impl Applier {
    /// For this cluster.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            kinds: BTreeMap::new(),
        }
    }

    /// Creates the object, or brings it up to date if it is there and ours.
    pub async fn apply(&mut self, object: &Value) -> anyhow::Result<Applied> {
        let object: DynamicObject = serde_json::from_value(object.clone())
            .context("chart object without apiVersion and kind")?;
        let types = object
            .types
            .clone()
            .ok_or_else(|| anyhow!("chart object without apiVersion and kind"))?;
        let name = object
            .metadata
            .name
            .clone()
            .ok_or_else(|| anyhow!("{} without a name in the chart", types.kind))?;
        let (resource, scope) = self.resource(&types.api_version, &types.kind).await?;
        let namespace = object
            .metadata
            .namespace
            .clone()
            .filter(|_| scope == Scope::Namespaced);
        let api = api(&self.client, &resource, namespace.as_deref());
        let what = format!("{} {name}", types.kind);
        let is_new = match api.create(&PostParams::default(), &object).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let existing = api
                    .get(&name)
                    .await
                    .map_err(|error| anyhow!("cannot read {what}: {}", explain(&error)))?;
                let ours = existing
                    .metadata
                    .labels
                    .unwrap_or_default()
                    .get(APP_NAME)
                    .is_some_and(|value| value == APP_NAME_VALUE);
                if !ours {
                    bail!(
                        "{what} exists already and is not part of a mesh (no label {APP_NAME}={APP_NAME_VALUE}); remove or rename it"
                    );
                }
                let patched = api
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&object))
                    .await;
                patched.map_err(|error| anyhow!("cannot update {what}: {}", explain(&error)))?;
                false
            }
            Err(error) => bail!("cannot create {what}: {}", explain(&error)),
        };
        Ok(Applied {
            resource,
            namespace,
            name,
            is_new,
        })
    }

    async fn resource(
        &mut self,
        api_version: &str,
        kind: &str,
    ) -> anyhow::Result<(ApiResource, Scope)> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.get(&key) {
            return Ok(known.clone());
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, kind);
        let (resource, capabilities) = pinned_kind(&self.client, &kind).await.map_err(|error| {
            anyhow!(
                "the cluster has no kind {} in {api_version}: {}",
                kind.kind,
                explain(&error)
            )
        })?;
        let found = (resource, capabilities.scope);
        self.kinds.insert(key, found.clone());
        Ok(found)
    }
}

// === impl Applied ===

impl Applied {
    /// Deletes the object; one that is gone already is no error.
    pub async fn delete(&self, client: &Client) -> anyhow::Result<()> {
        match api(client, &self.resource, self.namespace.as_deref())
            .delete(&self.name, &DeleteParams::background())
            .await
        {
            Err(error) if !is_absent(&error) => bail!(
                "cannot delete {} {}: {}",
                self.resource.kind,
                self.name,
                explain(&error)
            ),
            _ => Ok(()),
        }
    }
}

fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// The group versions that the cluster serves.
pub async fn api_versions(client: &Client) -> anyhow::Result<BTreeSet<String>> {
    let groups = client
        .list_api_groups()
        .await
        .map_err(|error| anyhow!("cannot discover the cluster's APIs: {}", explain(&error)))?;
    let mut versions: BTreeSet<String> = groups
        .groups
        .into_iter()
        .flat_map(|group| group.versions)
        .map(|version| version.group_version)
        .collect();
    versions.insert("v1".to_owned());
    Ok(versions)
}

/// Deletes what a collection path has with these labels, and says what each was called.
pub async fn delete_labelled(
    client: &Client,
    path: &str,
    selector: &str,
) -> anyhow::Result<Vec<String>> {
    let request =
        Request::get(format!("{path}?labelSelector={}", encode(selector))).body(Vec::new())?;
    let list: Value = match client.request(request).await {
        Ok(list) => list,
        // A cluster without the kind has none of its objects.
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => bail!("cannot list {path}: {}", explain(&error)),
    };
    let items = list
        .get("items")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut deleted = Vec::new();
    for name in items
        .iter()
        .filter_map(|item| item.pointer("/metadata/name")?.as_str())
    {
        if delete(client, &format!("{path}/{name}")).await? {
            deleted.push(name.to_owned());
        }
    }
    Ok(deleted)
}

/// Deletes one object by its path; false if there is none.
pub async fn delete(client: &Client, path: &str) -> anyhow::Result<bool> {
    let body = serde_json::to_vec(
        &serde_json::json!({ "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background" }),
    )?;
    let request = Request::delete(path)
        .header("content-type", "application/json")
        .body(body)?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => bail!("cannot delete {path}: {}", explain(&error)),
    }
}

/// A label selector as part of a URL.
fn encode(selector: &str) -> String {
    selector
        .replace('=', "%3D")
        .replace(',', "%2C")
        .replace('/', "%2F")
}
