//! Endpoints and EndpointSlices of Services, from the pods they select

mod backends;
mod slices;
mod subsets;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use tracing::debug;

use self::slices::slices;
use self::subsets::{endpoints, selects};
use crate::key::{During, Failure, Key, gone_is_fine, has_code, has_reason, message};
use crate::queue::{Next, Queue, work};
use crate::watch::Store;

/// The objects as last seen; deciding on old ones is harmless, because the change to come decides again.
pub(crate) struct Seen {
    pub services: Arc<Store<Service>>,
    pub pods: Arc<Store<Pod>>,
    pub endpoints: Arc<Store<Endpoints>>,
    /// Absent on servers that do not know `discovery.k8s.io/v1`.
    pub slices: Option<Arc<Store<EndpointSlice>>>,
}

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, seen: Arc<Seen>, queue: Arc<Queue<Key>>) {
    seen.services.synced().await;
    seen.pods.synced().await;
    seen.endpoints.synced().await;
    if let Some(slices) = &seen.slices {
        slices.synced().await;
    }
    work("endpoints", queue, |key| {
        reconcile(client.clone(), seen.clone(), key)
    })
    .await;
}

/// Adds the Services that select the pod, or did.
pub(crate) fn pod_changed(
    queue: &Queue<Key>,
    services: &Store<Service>,
    before: Option<&Pod>,
    after: Option<&Pod>,
) {
    let Some(namespace) = before.or(after).and_then(ResourceExt::namespace) else {
        return;
    };
    for service in services.in_namespace(&namespace) {
        if [before, after]
            .into_iter()
            .flatten()
            .any(|pod| selects(&service, pod))
        {
            queue.add(Key::of(&*service));
        }
    }
}

/// Adds the Service a slice belongs to.
pub(crate) fn slice_changed(
    queue: &Queue<Key>,
    before: Option<&EndpointSlice>,
    after: Option<&EndpointSlice>,
) {
    for slice in [before, after].into_iter().flatten() {
        if let Some(service) = slice.labels().get(slices::SERVICE_NAME) {
            queue.add(Key::new(
                slice.namespace().unwrap_or_default(),
                service.clone(),
            ));
        }
    }
}

async fn reconcile(client: Client, seen: Arc<Seen>, key: Key) -> Result<Next, Failure> {
    let service = seen.services.get(&key);
    let selecting = service.as_deref().is_some_and(|service| {
        service
            .spec
            .as_ref()
            .is_some_and(|spec| spec.selector.is_some())
    });
    let pods = if selecting {
        seen.pods.in_namespace(&key.namespace)
    } else {
        Vec::new()
    };
    let there = seen.endpoints.get(&key);
    let wanted = service
        .as_deref()
        .filter(|_| selecting)
        .map(|service| endpoints(service, &pods));
    write_endpoints(
        &client,
        &key,
        service.as_deref(),
        there.as_deref(),
        wanted.as_ref(),
    )
    .await?;
    if let Some(store) = &seen.slices {
        let there = store.in_namespace(&key.namespace);
        let there: Vec<_> = there
            .into_iter()
            .filter(|slice| slices::is_ours(slice, &key.name))
            .collect();
        let manual = seen.endpoints.get(&key).filter(|_| !selecting);
        let wanted = service
            .as_deref()
            .map(|service| slices(service, &pods, manual.as_deref()))
            .unwrap_or_default();
        write_slices(&client, &key, &there, wanted).await?;
    }
    Ok(Next::Wait)
}

async fn write_endpoints(
    client: &Client,
    key: &Key,
    service: Option<&Service>,
    there: Option<&Endpoints>,
    wanted: Option<&Endpoints>,
) -> Result<(), Failure> {
    let api: Api<Endpoints> = Api::namespaced(client.clone(), &key.namespace);
    match (wanted, there) {
        (Some(wanted), None) => create(&api, wanted)
            .await
            .during(|| format!("create Endpoints {key}")),
        (Some(wanted), Some(there)) if differ(there, wanted, &there.subsets, &wanted.subsets) => {
            let mut changed = wanted.clone();
            changed.metadata.resource_version = there.resource_version();
            changed
                .metadata
                .annotations
                .clone_from(&there.metadata.annotations);
            let written = api
                .replace(&key.name, &PostParams::default(), &changed)
                .await;
            gone_is_fine(written)
                .during(|| format!("write Endpoints {key}"))
                .map(drop)
        }
        // Endpoints without a Service belong to users; those of a deleted Service go with it.
        (None, Some(_)) if service.is_none() => {
            gone_is_fine(api.delete(&key.name, &DeleteParams::default()).await)
                .during(|| format!("delete Endpoints {key}"))
                .map(drop)
        }
        _ => Ok(()),
    }
}

async fn write_slices(
    client: &Client,
    key: &Key,
    there: &[Arc<EndpointSlice>],
    wanted: Vec<EndpointSlice>,
) -> Result<(), Failure> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
    for slice in there {
        let name = slice.name_any();
        if !wanted.iter().any(|wanted| wanted.name_any() == name) {
            let deleted = gone_is_fine(api.delete(&name, &DeleteParams::default()).await);
            deleted.during(|| format!("delete EndpointSlice {name} of Service {key}"))?;
        }
    }
    for wanted in wanted {
        let name = wanted.name_any();
        match there.iter().find(|slice| slice.name_any() == name) {
            None => create(&api, &wanted)
                .await
                .during(|| format!("create EndpointSlice {name} of Service {key}"))?,
            Some(there) => {
                let (old, new) = (
                    (&there.endpoints, &there.ports),
                    (&wanted.endpoints, &wanted.ports),
                );
                if differ(&**there, &wanted, &old, &new) {
                    let patch = serde_json::json!({
                        "metadata": {"labels": wanted.metadata.labels}, "endpoints": wanted.endpoints, "ports": wanted.ports,
                    });
                    let written = api
                        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                        .await;
                    gone_is_fine(written)
                        .during(|| format!("write EndpointSlice {name} of Service {key}"))?;
                }
            }
        }
    }
    Ok(())
}

/// Creates, where another's object of the same name or a namespace that goes is no failure: the watch tells the rest.
async fn create<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match api.create(&PostParams::default(), object).await {
        Err(error)
            if has_reason(&error, "AlreadyExists")
                || has_code(&error, 403)
                || has_code(&error, 404) =>
        {
            debug!(error = message(&error), "not created");
            Ok(())
        }
        other => other.map(drop),
    }
}

fn differ<K: Resource, T: PartialEq>(there: &K, wanted: &K, old: &T, new: &T) -> bool {
    old != new || there.labels() != wanted.labels()
}
