//! The two containers and the volume that a pod gets.

use api::TOKEN_AUDIENCE;
use api::config::v1alpha2::{MeshConfigSpec, SidecarSpec};
use api::labels::SIDECAR_UID;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    ObjectFieldSelector, Pod, ProjectedVolumeSource, ResourceRequirements, SecurityContext,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use crate::class::SidecarClass;
use crate::error::InjectError;
use crate::probes::{self, Probe};
use crate::settings::Settings;

/// Name of the container that programs interception.
pub const INIT_CONTAINER: &str = "osm-init";
/// Name of the proxy's container.
pub const SIDECAR_CONTAINER: &str = "sidecar";
/// Name of the volume with the token that proves the pod's ServiceAccount to the control plane.
pub(crate) const TOKEN_VOLUME: &str = "osm-token";
/// Name of the volume through which a stock Envoy's container gets our program, and Envoy its certificate.
pub(crate) const AGENT_VOLUME: &str = "osm-agent";
/// Environment variable of the sidecar with the pod's mesh-wide id.
pub(crate) const UUID_VARIABLE: &str = "OSM_PROXY_UUID";

const PROGRAM: &str = "osm-proxy";
const AGENT_FOLDER: &str = "/var/run/osm";
const TOKEN_FOLDER: &str = "/var/run/secrets/openservicemesh.io";
const TOKEN_FILE: &str = "token";
/// Kubernetes renews at 80 % of it; one hour is the default of projected tokens.
const TOKEN_SECONDS: i64 = 3600;

/// The token's volume. Readable by all: the sidecar's user is not the kubelet's, and only the sidecar mounts it.
pub(crate) fn token_volume() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN_FILE.to_owned(),
    };
    Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o444),
            sources: Some(vec![VolumeProjection {
                service_account_token: Some(token),
                ..VolumeProjection::default()
            }]),
        }),
        ..Volume::default()
    }
}

/// The volume of a pod with a stock Envoy: the init container puts our program there, which has a socket there.
pub(crate) fn agent_volume() -> Volume {
    Volume {
        name: AGENT_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

fn agent_mount() -> VolumeMount {
    VolumeMount {
        name: AGENT_VOLUME.to_owned(),
        mount_path: AGENT_FOLDER.to_owned(),
        ..VolumeMount::default()
    }
}

/// The container that programs interception with these flags.
pub(crate) fn init(
    class: SidecarClass,
    mesh_config: &MeshConfigSpec,
    settings: &Settings,
    mut flags: Vec<String>,
) -> Result<Container, InjectError> {
    let mut mounts = None;
    if class == SidecarClass::Envoy {
        flags.push(format!("--install-into={AGENT_FOLDER}"));
        mounts = Some(vec![agent_mount()]);
    }
    let image = first_named(
        &mesh_config.sidecar.init_container_image,
        &settings.init_container_image,
    );
    let pull_policy = Some(settings.image_pull_policy.clone()).filter(|policy| !policy.is_empty());
    Ok(Container {
        name: INIT_CONTAINER.to_owned(),
        image: Some(image.ok_or(InjectError::Image("initContainerImage"))?),
        image_pull_policy: pull_policy,
        command: Some(vec![PROGRAM.to_owned()]),
        args: Some(std::iter::once("init".to_owned()).chain(flags).collect()),
        env: Some(vec![from_field("POD_IP", "status.podIP")]),
        security_context: Some(SecurityContext {
            privileged: Some(mesh_config.sidecar.enable_privileged_init_container),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".to_owned()]),
                drop: None,
            }),
            run_as_non_root: Some(false),
            run_as_user: Some(0),
            ..SecurityContext::default()
        }),
        volume_mounts: mounts,
        ..Container::default()
    })
}

/// What the sidecar of one pod is made of, besides mesh-wide settings.
pub(crate) struct Sidecar<'a> {
    pub class: SidecarClass,
    pub pod: &'a Pod,
    pub uuid: &'a str,
    pub probes: &'a [Probe],
    pub resources: Option<ResourceRequirements>,
}

/// The proxy's container.
pub(crate) fn sidecar(
    of: Sidecar<'_>,
    config: &SidecarSpec,
    settings: &Settings,
) -> Result<Container, InjectError> {
    let image = of.class.image(config, settings)?;
    let (program, role) = match of.class {
        SidecarClass::OsmProxy => (PROGRAM.to_owned(), "run"),
        SidecarClass::Envoy => (format!("{AGENT_FOLDER}/{PROGRAM}"), "agent"),
    };
    let level = if config.log_level.is_empty() {
        "error"
    } else {
        &config.log_level
    };
    let port = |(name, number): (&str, i32)| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        ..ContainerPort::default()
    };
    let fixed = [
        ("proxy-admin", 15000),
        ("proxy-inbound", 15003),
        ("proxy-metrics", 15010),
    ];
    let token = VolumeMount {
        name: TOKEN_VOLUME.to_owned(),
        mount_path: TOKEN_FOLDER.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let agent = (of.class == SidecarClass::Envoy).then(agent_mount);
    Ok(Container {
        name: SIDECAR_CONTAINER.to_owned(),
        image: Some(image),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![program]),
        args: Some(vec![role.to_owned(), format!("--log-level={level}")]),
        env: Some(environment(&of, settings)?),
        ports: Some(
            fixed
                .into_iter()
                .chain(probes::ports(of.probes))
                .map(port)
                .collect(),
        ),
        resources: of.resources,
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            run_as_non_root: Some(true),
            run_as_user: Some(SIDECAR_UID),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(std::iter::once(token).chain(agent).collect()),
        ..Container::default()
    })
}

fn environment(of: &Sidecar<'_>, settings: &Settings) -> Result<Vec<EnvVar>, InjectError> {
    let controller = format!("osm-controller.{}.svc", settings.osm_namespace);
    let probes = serde_json::to_string(of.probes).map_err(|source| InjectError::Encode {
        what: "OSM_PROBES",
        source,
    })?;
    let mut environment = vec![
        from_field("POD_UID", "metadata.uid"),
        from_field("POD_NAME", "metadata.name"),
        from_field("POD_NAMESPACE", "metadata.namespace"),
        from_field("POD_IP", "status.podIP"),
        from_field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        value("MESH_NAME", &settings.mesh_name),
        value(UUID_VARIABLE, of.uuid),
        value(
            "OSM_XDS_ADDRESS",
            &format!("{controller}.cluster.local:15128"),
        ),
        value("OSM_XDS_SERVER_NAME", &controller),
        value("OSM_ROOT_CA", &settings.root_ca_pem),
        value("OSM_TRUST_DOMAIN", &settings.trust_domain),
        value("OSM_TOKEN_PATH", &format!("{TOKEN_FOLDER}/{TOKEN_FILE}")),
        value("OSM_PROBES", &probes),
    ];
    if let Some((kind, name)) = controller_of(of.pod) {
        environment.push(value("POD_CONTROLLER_KIND", &kind));
        environment.push(value("POD_CONTROLLER_NAME", &name));
    }
    Ok(environment)
}

/// The workload that the pod belongs to; a ReplicaSet stands for its Deployment, whose name it extends by one part.
fn controller_of(pod: &Pod) -> Option<(String, String)> {
    let owner = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))?;
    match (owner.kind.as_str(), owner.name.rsplit_once('-')) {
        ("ReplicaSet", Some((deployment, _))) => {
            Some(("Deployment".to_owned(), deployment.to_owned()))
        }
        (kind, _) => Some((kind.to_owned(), owner.name.clone())),
    }
}

fn first_named(first: &str, second: &str) -> Option<String> {
    [first, second]
        .into_iter()
        .find(|image| !image.is_empty())
        .map(str::to_owned)
}

fn value(name: &str, value: &str) -> EnvVar {
    // `$(` would be expanded by the kubelet; `$$` is a plain dollar.
    EnvVar {
        name: name.to_owned(),
        value: Some(value.replace('$', "$$")),
        value_from: None,
    }
}

fn from_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector {
        field_path: path.to_owned(),
        api_version: None,
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
    }
}
