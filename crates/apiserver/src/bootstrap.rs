//! What a fresh cluster has: system namespaces, and Service `default/kubernetes` with its Endpoints.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Catalogue;
use crate::store::{Expect, Key, WriteError, revision_of};
use crate::{Server, StartError, crd, defaults, kinds, object};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Brings the store into shape and builds the catalogue of kinds.
pub async fn run(server: &Arc<Server>, advertise: Option<SocketAddr>) -> Result<(), StartError> {
    reload(server);
    for name in NAMESPACES {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(server, "namespaces", namespace, false).await?;
    }
    let first = server
        .services
        .first_of_each()
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let family = if first.contains(':') { "IPv6" } else { "IPv4" };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": first, "clusterIPs": [first], "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertise.map_or(6443, |a| a.port())}],
        },
    });
    ensure(server, "services", service, true).await?;
    if let Some(address) = advertise {
        publish(server, address).await?;
    }
    Ok(())
}

/// Endpoints and EndpointSlice of the API server itself: no pod stands behind it, so no controller makes them.
async fn publish(server: &Arc<Server>, address: SocketAddr) -> Result<(), StartError> {
    let (ip, port) = (address.ip().to_string(), address.port());
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    ensure(server, "endpoints", endpoints, true).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    ensure(server, "discovery.k8s.io/endpointslices", slice, true).await
}

/// Makes an object if absent; with `renew`, brings its content up to date otherwise.
async fn ensure(
    server: &Arc<Server>,
    storage: &str,
    mut value: Value,
    renew: bool,
) -> Result<(), StartError> {
    let resource: Arc<str> = Arc::from(storage);
    let key = Key::new(&resource, object::namespace(&value), object::name(&value));
    if let Some(kind) = kinds::builtin()
        .kinds
        .iter()
        .find(|k| k.storage == resource)
    {
        defaults::fill(kind, &mut value);
    }
    let metadata = object::metadata(&mut value);
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(object::now()));
    let written = match server.store.get(&key) {
        None => server.store.put(key, Expect::Absent, value).await,
        Some((old, revision)) if renew => {
            let mut next = (*old).clone();
            for (field, content) in value
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(f, _)| *f != "metadata")
            {
                next[field] = content.clone();
            }
            if next == *old || revision != revision_of(&old) {
                return Ok(());
            }
            server
                .store
                .put(key, Expect::Revision(revision), next)
                .await
        }
        Some(_) => return Ok(()),
    };
    match written {
        Ok(_) | Err(WriteError::Exists) => Ok(()),
        Err(e) => Err(StartError::Config(format!("making {storage}: {e}"))),
    }
}

/// Rebuilds the catalogue of kinds from the stored CRDs.
pub fn reload(server: &Server) {
    let crds = server
        .store
        .list(
            &Arc::from("apiextensions.k8s.io/customresourcedefinitions"),
            None,
        )
        .0;
    let custom = crds
        .iter()
        .filter(|c| crd::is_established(c))
        .flat_map(|c| crd::kinds(c))
        .collect();
    server.registry.set(Catalogue::new(custom));
}
