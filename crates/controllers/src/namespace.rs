//! The end of a namespace: everything in it is deleted, then the namespace itself

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::key::{During, Failure, Key, gone_is_fine, has_code};
use crate::kinds::{Kind, discover};
use crate::queue::{Next, Queue, work};
use crate::watch::Store;

/// The finalizer in a namespace's spec that this controller takes away.
const FINALIZER: &str = "kubernetes";
/// While objects with a grace time or finalizers go. What was there is seen to go by watch only for pods.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs the controller for ever; keys are namespaces.
pub(crate) async fn run(client: Client, namespaces: Arc<Store<Namespace>>, queue: Arc<Queue<Key>>) {
    namespaces.synced().await;
    work("namespace", queue, |key| {
        reconcile(client.clone(), namespaces.clone(), key)
    })
    .await;
}

/// Whether the namespace is on its way out and waits for this controller.
pub(crate) fn ends(namespace: &Namespace) -> bool {
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.as_ref());
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers.is_some_and(|all| all.iter().any(|one| one == FINALIZER))
}

async fn reconcile(
    client: Client,
    namespaces: Arc<Store<Namespace>>,
    key: Key,
) -> Result<Next, Failure> {
    if !namespaces
        .get(&key)
        .is_some_and(|namespace| ends(&namespace))
    {
        return Ok(Next::Wait);
    }
    let kinds = discover(&client).await?;
    let namespaced = kinds.iter().filter(|kind| kind.namespaced);
    let left = try_join_all(namespaced.map(|kind| empty(&client, kind, &key.name))).await?;
    if left.iter().sum::<usize>() > 0 {
        return Ok(Next::After(LOOK_AGAIN));
    }
    finalize(&client, &key.name).await?;
    Ok(Next::Wait)
}

/// Deletes the namespace's objects of one kind; says how many are still there.
async fn empty(client: &Client, kind: &Kind, namespace: &str) -> Result<usize, Failure> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let what = || {
        format!(
            "delete the {} of namespace {namespace}",
            kind.resource.plural
        )
    };
    let there = names(&api, kind, namespace).await?;
    let standing: Vec<&String> = there
        .iter()
        .filter(|(_, deleting)| !deleting)
        .map(|(name, _)| name)
        .collect();
    if there.is_empty() {
        return Ok(0);
    }
    if kind.delete_collection && !standing.is_empty() {
        api.delete_collection(&DeleteParams::background(), &ListParams::default())
            .await
            .during(what)?;
    } else {
        for name in standing {
            gone_is_fine(api.delete(name, &DeleteParams::background()).await).during(what)?;
        }
    }
    Ok(names(&api, kind, namespace).await?.len())
}

/// Names of the objects, and whether each is on its way out.
async fn names(
    api: &Api<DynamicObject>,
    kind: &Kind,
    namespace: &str,
) -> Result<Vec<(String, bool)>, Failure> {
    match api.list_metadata(&ListParams::default()).await {
        Ok(list) => Ok(list
            .items
            .iter()
            .map(|object| {
                (
                    object.name_any(),
                    object.metadata.deletion_timestamp.is_some(),
                )
            })
            .collect()),
        // The kind went meanwhile, or only pretends to be listable.
        Err(error) if has_code(&error, 404) || has_code(&error, 405) => Ok(Vec::new()),
        Err(error) => Err(error)
            .during(|| format!("list the {} of namespace {namespace}", kind.resource.plural)),
    }
}

async fn finalize(client: &Client, name: &str) -> Result<(), Failure> {
    let api: Api<Namespace> = Api::all(client.clone());
    let what = || format!("finalize namespace {name}");
    let Some(mut namespace) = api.get_opt(name).await.during(what)? else {
        return Ok(());
    };
    if let Some(finalizers) = namespace
        .spec
        .as_mut()
        .and_then(|spec| spec.finalizers.as_mut())
    {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": namespace.metadata, "spec": namespace.spec, "status": namespace.status});
    let written = api
        .replace_subresource("finalize", name, &PostParams::default(), &body)
        .await;
    gone_is_fine(written).during(what).map(drop)
}
