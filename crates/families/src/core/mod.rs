//! Kubernetes core: namespaces, pods, services, endpoints.

mod endpoints;
mod pods;
mod services;

pub(crate) use endpoints::EndpointsFacts;
pub(crate) use pods::{PodFacts, workloads};
pub(crate) use services::{PortFacts, ServiceFacts, Target, services};

use k8s_openapi::api::core::v1::Namespace;

/// Whether the namespace belongs to the mesh of this name.
pub(crate) fn is_monitored(namespace: &Namespace, mesh_name: &str) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    let mesh = labels.and_then(|labels| labels.get(api::labels::MONITORED_BY));
    mesh.is_some_and(|mesh| mesh == mesh_name)
}
