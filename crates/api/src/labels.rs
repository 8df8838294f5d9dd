//! Names of labels, annotations and other keys that users' manifests and scripts rely on.

/// Namespace label: the name of the mesh that the namespace belongs to.
pub const MONITORED_BY: &str = "openservicemesh.io/monitored-by";

/// Namespace label: its presence keeps the webhooks away from the namespace.
pub const IGNORE: &str = "openservicemesh.io/ignore";

/// Namespace and pod annotation: switches injection on or off.
pub const SIDECAR_INJECTION: &str = "openservicemesh.io/sidecar-injection";

/// Namespace annotation: pods get the annotations that Prometheus reads.
pub const METRICS: &str = "openservicemesh.io/metrics";

/// Pod and namespace annotation: which program the sidecar is, in place of MeshConfig's `sidecarClass`.
pub const SIDECAR_CLASS: &str = "openservicemesh.io/sidecar-class";

/// Pod annotation: destination ports that bypass the sidecar, comma separated.
pub const OUTBOUND_PORT_EXCLUSION: &str = "openservicemesh.io/outbound-port-exclusion-list";

/// Pod annotation: own ports that bypass the sidecar, comma separated.
pub const INBOUND_PORT_EXCLUSION: &str = "openservicemesh.io/inbound-port-exclusion-list";

/// Pod annotation: destination CIDRs that bypass the sidecar, comma separated.
pub const OUTBOUND_IP_RANGE_EXCLUSION: &str = "openservicemesh.io/outbound-ip-range-exclusion-list";

/// Pod annotation: the only destination CIDRs that go through the sidecar, comma separated.
pub const OUTBOUND_IP_RANGE_INCLUSION: &str = "openservicemesh.io/outbound-ip-range-inclusion-list";

/// Pod and namespace annotation prefix; followed by `cpu`, `memory`, `storage` or `ephemeral-storage`.
pub const SIDECAR_RESOURCE_LIMITS_PREFIX: &str = "openservicemesh.io/sidecar-resource-limits-";

/// Pod and namespace annotation prefix; followed by `cpu`, `memory`, `storage` or `ephemeral-storage`.
pub const SIDECAR_RESOURCE_REQUESTS_PREFIX: &str = "openservicemesh.io/sidecar-resource-requests-";

/// Pod label written by the injector: identifies the proxy of the pod.
pub const PROXY_UUID: &str = "osm-proxy-uuid";

/// Label of objects that the reconciler keeps as installed.
pub const RECONCILE: &str = "openservicemesh.io/reconcile";

/// Label `app.kubernetes.io/name` of everything that belongs to the mesh carries [`APP_NAME_VALUE`].
pub const APP_NAME: &str = "app.kubernetes.io/name";

/// Value of [`APP_NAME`].
pub const APP_NAME_VALUE: &str = "openservicemesh.io";

/// Label with the name of the mesh on objects of its control plane.
pub const APP_INSTANCE: &str = "app.kubernetes.io/instance";

/// Label with the version of the control plane.
pub const APP_VERSION: &str = "app.kubernetes.io/version";

/// Label that names the component (`osm-controller`, `osm-injector`, `osm-bootstrap`).
pub const APP: &str = "app";

/// Annotations written on injected pods of namespaces with metrics.
pub const PROMETHEUS_SCRAPE: &str = "prometheus.io/scrape";

/// See [`PROMETHEUS_SCRAPE`].
pub const PROMETHEUS_PORT: &str = "prometheus.io/port";

/// See [`PROMETHEUS_SCRAPE`].
pub const PROMETHEUS_PATH: &str = "prometheus.io/path";

/// Audience of the projected ServiceAccount tokens by which sidecars ask for certificates. A token for any other
/// audience (the API server's, say) must not be accepted as proof of identity, and this one opens nothing else.
pub const TOKEN_AUDIENCE: &str = "openservicemesh.io";

/// User id of the sidecar: its own connections are not redirected. Applications must not use it.
pub const SIDECAR_UID: i64 = 1500;

/// The name that `osm install` gives a mesh by default.
pub const DEFAULT_MESH_NAME: &str = "osm";

/// The namespace that `osm install` uses by default.
pub const DEFAULT_OSM_NAMESPACE: &str = "osm-system";

/// The name of the MeshConfig object in the control plane's namespace.
pub const MESH_CONFIG_NAME: &str = "osm-mesh-config";

/// The ConfigMap from which `osm bootstrap` makes the first MeshConfig.
pub const PRESET_MESH_CONFIG_NAME: &str = "preset-mesh-config";
