//! The patch.

use api::config::v1alpha2::MeshConfig;
use api::labels::{
    PROMETHEUS_PATH, PROMETHEUS_PORT, PROMETHEUS_SCRAPE, PROXY_UUID, SIDECAR_CLASS, SIDECAR_UID,
};
use json_patch::Patch;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec};
use uuid::Uuid;

use crate::class::SidecarClass;
use crate::containers::{
    self, AGENT_VOLUME, INIT_CONTAINER, SIDECAR_CONTAINER, Sidecar, TOKEN_VOLUME, UUID_VARIABLE,
};
use crate::decide::{Decision, decide, metrics};
use crate::error::InjectError;
use crate::exclusions::interception;
use crate::settings::Settings;
use crate::{probes, resources};

/// Ports that the sidecar listens on.
const RESERVED_PORTS: [i32; 8] = [15000, 15001, 15003, 15010, 15901, 15902, 15903, 15904];

/// The patch that makes the pod a pod of the mesh; empty if it is to stay as it is.
pub fn mutate(
    pod: &Pod,
    namespace: &Namespace,
    mesh_config: &MeshConfig,
    settings: &Settings,
) -> Result<Patch, InjectError> {
    // Interception mode "none" means no injection at all; "ebpf" gets the same rules another way, so it is taken as well.
    let no_interception = mesh_config.spec.traffic.interception_mode == "none";
    if decide(pod, namespace, settings)? != Decision::Inject || no_interception {
        return Ok(Patch(Vec::new()));
    }
    let mut injected = pod.clone();
    let uuid = Uuid::new_v4().to_string();
    if metrics(namespace)? {
        let annotations = injected.metadata.annotations.get_or_insert_default();
        for (key, value) in [
            (PROMETHEUS_SCRAPE, "true"),
            (PROMETHEUS_PORT, "15010"),
            (PROMETHEUS_PATH, "/stats/prometheus"),
        ] {
            annotations.insert(key.to_owned(), value.to_owned());
        }
    }
    injected
        .metadata
        .labels
        .get_or_insert_default()
        .insert(PROXY_UUID.to_owned(), uuid.clone());
    if !renew(&mut injected, &uuid) {
        add(&mut injected, &uuid, namespace, mesh_config, settings)?;
    }
    // Both sides went through the same types, so fields these types do not know are in neither and stay untouched.
    let json = |pod: &Pod| {
        serde_json::to_value(pod).map_err(|source| InjectError::Encode {
            what: "the pod",
            source,
        })
    };
    Ok(json_patch::diff(&json(pod)?, &json(&injected)?))
}

/// A copy of a pod that has a sidecar already (`kubectl debug --copy-to`) keeps it but is a pod of its own: it gets its
/// own id. Returns false for all other pods.
fn renew(pod: &mut Pod, uuid: &str) -> bool {
    let Some(spec) = pod.spec.as_mut() else {
        return false;
    };
    let has_token = spec
        .volumes
        .iter()
        .flatten()
        .any(|volume| volume.name == TOKEN_VOLUME && volume.projected.is_some());
    let sidecar = spec
        .containers
        .iter_mut()
        .find(|container| container.name == SIDECAR_CONTAINER);
    let variable = sidecar.and_then(|sidecar| {
        sidecar
            .env
            .iter_mut()
            .flatten()
            .find(|variable| variable.name == UUID_VARIABLE)
    });
    match variable {
        Some(variable) if has_token => {
            variable.value = Some(uuid.to_owned());
            true
        }
        _ => false,
    }
}

fn add(
    pod: &mut Pod,
    uuid: &str,
    namespace: &Namespace,
    mesh_config: &MeshConfig,
    settings: &Settings,
) -> Result<(), InjectError> {
    let mesh_config = &mesh_config.spec;
    if let Some(spec) = pod.spec.as_ref() {
        refuse(spec)?;
    }
    let flags = interception(pod, mesh_config)?.to_args();
    let class = SidecarClass::of(pod, namespace, &mesh_config.sidecar)?;
    if class == SidecarClass::Envoy {
        // The control plane reads it there, whoever chose the class.
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(SIDECAR_CLASS.to_owned(), "envoy".to_owned());
    }
    let init = containers::init(class, mesh_config, settings, flags)?;
    let resources = resources::resources(pod, namespace, mesh_config.sidecar.resources.as_ref());
    let probes = probes::rewrite(pod);
    let sidecar = containers::sidecar(
        Sidecar {
            class,
            pod,
            uuid,
            probes: &probes,
            resources,
        },
        &mesh_config.sidecar,
        settings,
    )?;
    let spec = pod.spec.get_or_insert_default();
    let agent = (class == SidecarClass::Envoy).then(containers::agent_volume);
    spec.volumes
        .get_or_insert_default()
        .extend(std::iter::once(containers::token_volume()).chain(agent));
    spec.init_containers.get_or_insert_default().push(init);
    spec.containers.push(sidecar);
    Ok(())
}

/// Refuses pods that could not work with a sidecar or would escape it.
fn refuse(spec: &PodSpec) -> Result<(), InjectError> {
    if spec
        .node_selector
        .as_ref()
        .and_then(|labels| labels.get("kubernetes.io/os"))
        .is_some_and(|os| os == "windows")
    {
        return Err(InjectError::Windows);
    }
    let reserved = [TOKEN_VOLUME, AGENT_VOLUME];
    if let Some(volume) =
        (spec.volumes.iter().flatten()).find(|volume| reserved.contains(&volume.name.as_str()))
    {
        return Err(InjectError::VolumeName(volume.name.clone()));
    }
    if spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user)
        == Some(SIDECAR_UID)
    {
        return Err(InjectError::User("the pod".to_owned()));
    }
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .try_for_each(refuse_container)
}

fn refuse_container(container: &Container) -> Result<(), InjectError> {
    if [INIT_CONTAINER, SIDECAR_CONTAINER].contains(&container.name.as_str()) {
        return Err(InjectError::ContainerName(container.name.clone()));
    }
    if container
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user)
        == Some(SIDECAR_UID)
    {
        return Err(InjectError::User(format!("container {:?}", container.name)));
    }
    let ports = container
        .ports
        .iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    match ports
        .map(|port| port.container_port)
        .find(|port| RESERVED_PORTS.contains(port))
    {
        Some(port) => Err(InjectError::Port {
            container: container.name.clone(),
            port,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
