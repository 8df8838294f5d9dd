//! Why a pod is refused.

/// A refusal; its text goes to whoever created the pod.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// `sidecar-injection` is neither yes nor no.
    #[error("Invalid annotation value for key {key:?}: {value}")]
    InjectionAnnotation {
        /// The annotation.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// `metrics` of the namespace is neither yes nor no.
    #[error("Invalid annotation value specified for annotation {key:?}: {value}")]
    MetricsAnnotation {
        /// The annotation.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A port list of the pod has something else in it.
    #[error("Invalid port value '{value}' specified for annotation '{key}'")]
    PortAnnotation {
        /// The annotation.
        key: &'static str,
        /// The element that is no port.
        value: String,
    },
    /// An address list of the pod has something else in it.
    #[error("Invalid IP range '{value}' specified for annotation '{key}'")]
    RangeAnnotation {
        /// The annotation.
        key: &'static str,
        /// The element that is no CIDR.
        value: String,
    },
    /// The sidecar is to be a program that nobody knows.
    #[error(
        "Invalid sidecar class '{value}' specified for {place}: must be osm-proxy, pipy or envoy"
    )]
    Class {
        /// Annotation or field.
        place: &'static str,
        /// Its value.
        value: String,
    },
    /// MeshConfig has a value that cannot be turned into a rule.
    #[error("Invalid value '{value}' in MeshConfig {field}")]
    MeshConfig {
        /// Path of the field below `spec`.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// Neither MeshConfig nor the control plane names an image.
    #[error("MeshConfig sidecar.{0} not set")]
    Image(&'static str),
    /// Windows pods have no sidecar here.
    #[error(
        "pod has nodeSelector kubernetes.io/os: windows, and this mesh has no Windows sidecar; annotate the pod with openservicemesh.io/sidecar-injection: disabled"
    )]
    Windows,
    /// A container of the pod has a name that the injected ones need.
    #[error("container name {0:?} is reserved for the mesh")]
    ContainerName(String),
    /// A volume of the pod has a name that the injected one needs.
    #[error("volume name {0:?} is reserved for the mesh")]
    VolumeName(String),
    /// A container would run as the sidecar and so escape it.
    #[error(
        "{0} runs as user 1500, which is reserved for the sidecar: its traffic would bypass the mesh"
    )]
    User(String),
    /// A container wants a port of the sidecar.
    #[error("container {container:?} declares port {port}, which is reserved for the sidecar")]
    Port {
        /// The container.
        container: String,
        /// The port.
        port: i32,
    },
    /// An object does not serialise; never seen, but not worth a panic in an admission server.
    #[error("cannot encode {what}")]
    Encode {
        /// What does not serialise.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}
