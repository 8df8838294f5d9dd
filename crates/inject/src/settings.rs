//! What the injector knows besides the objects of the cluster.

/// Environment variable of the injector with the sidecar's image where MeshConfig names none.
pub const DEFAULT_SIDECAR_IMAGE_ENV: &str = "OSM_DEFAULT_SIDECAR_IMAGE";
/// Environment variable of the injector with the image of Envoy where MeshConfig names none.
pub const DEFAULT_ENVOY_IMAGE_ENV: &str = "OSM_DEFAULT_ENVOY_IMAGE";
/// Environment variable of the injector with the init container's image where MeshConfig names none.
pub const DEFAULT_INIT_CONTAINER_IMAGE_ENV: &str = "OSM_DEFAULT_INIT_CONTAINER_IMAGE";

/// Settings of one injector; the same for every pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the mesh whose namespaces this injector serves.
    pub mesh_name: String,
    /// Namespace of the control plane; nothing in it is ever injected.
    pub osm_namespace: String,
    /// Trust domain of the mesh's identities.
    pub trust_domain: String,
    /// The root certificate(s) by which sidecars recognise the control plane, PEM.
    pub root_ca_pem: String,
    /// Sidecar image where MeshConfig names none; empty if there is none.
    pub sidecar_image: String,
    /// Image of sidecars of class `envoy` where MeshConfig names none; empty if there is none.
    pub envoy_image: String,
    /// Init container image where MeshConfig names none; empty if there is none.
    pub init_container_image: String,
    /// Pull policy of the init container (chart value `osm.image.pullPolicy`); empty leaves it to Kubernetes.
    pub image_pull_policy: String,
}

// === impl Settings ===

impl Settings {
    /// Settings of a mesh, with the default images of this process's environment.
    pub fn from_env(
        mesh_name: &str,
        osm_namespace: &str,
        trust_domain: &str,
        root_ca_pem: &str,
    ) -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            mesh_name: mesh_name.to_owned(),
            osm_namespace: osm_namespace.to_owned(),
            trust_domain: trust_domain.to_owned(),
            root_ca_pem: root_ca_pem.to_owned(),
            sidecar_image: variable(DEFAULT_SIDECAR_IMAGE_ENV),
            envoy_image: variable(DEFAULT_ENVOY_IMAGE_ENV),
            init_container_image: variable(DEFAULT_INIT_CONTAINER_IMAGE_ENV),
            image_pull_policy: variable("OSM_IMAGE_PULL_POLICY"),
        }
    }
}
