//! MeshConfig `config.openservicemesh.io/v1alpha2`: the settings of one mesh, those of OSM and of osm-edge together.

use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kind::kind;
use crate::shared::{SecretReference, anything, cidrs, is_zero, ports, resources};

kind! {
    /// The settings of one mesh; the object `osm-mesh-config` in the control plane's namespace counts.
    MeshConfig: MeshConfigSpec;
    group: "config.openservicemesh.io", version: "v1alpha2", plural: "meshconfigs"
}

/// Fields that `v1alpha1` does not have, as section and field.
pub(crate) const NOT_IN_V1ALPHA1: &[[&str; 2]] = &[
    ["sidecar", "tlsMinProtocolVersion"],
    ["sidecar", "tlsMaxProtocolVersion"],
    ["sidecar", "cipherSuites"],
    ["sidecar", "ecdhCurves"],
    ["sidecar", "localProxyMode"],
    ["traffic", "outboundIPRangeInclusionList"],
    ["traffic", "networkInterfaceExclusionList"],
    ["featureFlags", "enableMeshRootCertificate"],
];

/// The settings of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfigSpec {
    /// Configuration for sidecars
    pub sidecar: SidecarSpec,
    /// External pipy repository (osm-edge)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo_server: Option<RepoServerSpec>,
    /// Configuration for traffic management
    pub traffic: TrafficSpec,
    /// Configuration for metrics, logs and tracing
    pub observability: ObservabilitySpec,
    /// Configuration for certificate management
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateSpec>,
    /// Feature flags
    pub feature_flags: FeatureFlags,
    /// Properties of the set of clusters (osm-edge)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_set: Option<ClusterSetSpec>,
    /// Built-in plugin chains (osm-edge)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin_chains: Option<PluginChainsSpec>,
}

/// Configuration for sidecars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarSpec {
    /// Init containers run privileged; otherwise they have NET_ADMIN only
    pub enable_privileged_init_container: bool,
    /// Log level of sidecars, for pods created from now on
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"]))]
    pub log_level: String,
    /// Most sidecars that may be connected to the control plane; 0 is no limit
    #[serde(skip_serializing_if = "is_zero")]
    pub max_data_plane_connections: i64,
    /// Which program the sidecar is, for pods created from now on: `osm-proxy` (`pipy` is its alias) or a stock `envoy`
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["osm-proxy", "pipy", "envoy"], "x-default" = "osm-proxy"))]
    pub sidecar_class: String,
    /// Image of the sidecar (osm-edge)
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sidecar_image: String,
    /// Image of the sidecar on Windows nodes (osm-edge)
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sidecar_windows_image: String,
    /// Image of the sidecar of class `envoy`; it has to hold a program `envoy`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub envoy_image: String,
    /// Image of the Envoy sidecar on Windows nodes (OSM)
    #[serde(skip_serializing_if = "String::is_empty")]
    pub envoy_windows_image: String,
    /// Image of the init container
    #[serde(skip_serializing_if = "String::is_empty")]
    pub init_container_image: String,
    /// Settings for each class of sidecar (osm-edge)
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sidecar_drivers: Vec<SidecarDriverSpec>,
    /// Sidecars talk plain text to each other (osm-edge)
    #[serde(
        rename = "sidecarDisabledMTLS",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub sidecar_disabled_mtls: bool,
    /// Compute resources of the sidecar container
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,
    /// Interval between full pushes to all sidecars; `0s` is never
    #[serde(skip_serializing_if = "String::is_empty")]
    pub config_resync_interval: String,
    /// Connect, idle, read and write timeout in seconds (osm-edge)
    #[serde(skip_serializing_if = "is_zero")]
    pub sidecar_timeout: i64,
    /// Lowest TLS version that sidecars accept
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["TLS_AUTO", "TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"], "x-default" = "TLSv1_2"))]
    pub tls_min_protocol_version: String,
    /// Highest TLS version that sidecars accept
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["TLS_AUTO", "TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"], "x-default" = "TLSv1_3"))]
    pub tls_max_protocol_version: String,
    /// Ciphers for TLS 1.2 and older
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Elliptic curves
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ecdh_curves: Vec<String>,
    /// Address at which the sidecar reaches its own application: `Localhost` or `PodIP`
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["Localhost", "PodIP"], "x-default" = "Localhost"))]
    pub local_proxy_mode: String,
    /// DNS proxy in the sidecar (osm-edge)
    #[serde(rename = "localDNSProxy", skip_serializing_if = "Option::is_none")]
    pub local_dns_proxy: Option<LocalDnsProxySpec>,
}

/// Settings of one class of sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarDriverSpec {
    /// Class of the sidecar
    pub sidecar_name: String,
    /// Image of the sidecar
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sidecar_image: String,
    /// Image of the sidecar on Windows nodes
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sidecar_windows_image: String,
    /// Image of the init container
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub init_container_image: String,
    /// Port of the control plane that this class of sidecar connects to
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub proxy_server_port: Option<u16>,
    /// Sidecars talk plain text to each other
    #[serde(
        default,
        rename = "sidecarDisabledMTLS",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub sidecar_disabled_mtls: bool,
}

/// DNS proxy in the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalDnsProxySpec {
    /// Switches the DNS proxy on
    pub enable: bool,
    /// First server asked
    #[serde(
        rename = "primaryUpstreamDNSServerIPAddr",
        skip_serializing_if = "String::is_empty"
    )]
    pub primary_upstream_dns_server_ip_addr: String,
    /// Second server asked
    #[serde(
        rename = "secondaryUpstreamDNSServerIPAddr",
        skip_serializing_if = "String::is_empty"
    )]
    pub secondary_upstream_dns_server_ip_addr: String,
}

/// External pipy repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RepoServerSpec {
    /// Address of the repository
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipaddr: String,
    /// Folder in the repository
    #[serde(skip_serializing_if = "String::is_empty")]
    pub codebase: String,
}

/// Configuration for traffic management.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficSpec {
    /// Pods of the mesh may reach every destination outside it
    pub enable_egress: bool,
    /// CIDRs that bypass the sidecar on the way out
    #[serde(
        rename = "outboundIPRangeExclusionList",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "cidrs")]
    pub outbound_ip_range_exclusion_list: Vec<String>,
    /// The only CIDRs that go through the sidecar on the way out
    #[serde(
        rename = "outboundIPRangeInclusionList",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(schema_with = "cidrs")]
    pub outbound_ip_range_inclusion_list: Vec<String>,
    /// Ports that bypass the sidecar on the way out
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ports")]
    pub outbound_port_exclusion_list: Vec<u16>,
    /// Ports that bypass the sidecar on the way in
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ports")]
    pub inbound_port_exclusion_list: Vec<u16>,
    /// Network interfaces whose traffic bypasses the sidecar
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_interface_exclusion_list: Vec<String>,
    /// Services of the mesh may talk to each other without SMI policies
    pub enable_permissive_traffic_policy_mode: bool,
    /// How traffic gets to the sidecar (osm-edge)
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["iptables", "ebpf", "none"]))]
    pub interception_mode: String,
    /// Balance HTTP/1.1 per request instead of per connection (osm-edge)
    #[serde(
        rename = "http1PerRequestLoadBalancing",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub http1_per_request_load_balancing: bool,
    /// Balance HTTP/2 per request instead of per connection (osm-edge)
    #[serde(
        rename = "http2PerRequestLoadBalancing",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub http2_per_request_load_balancing: bool,
    /// External authorization of inbound and ingress traffic
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_external_authorization: Option<ExternalAuthorizationSpec>,
}

/// External authorization of inbound and ingress traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalAuthorizationSpec {
    /// Switches external authorization on
    pub enable: bool,
    /// Address of the authorization service
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Port of the authorization service
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Prefix of the metrics
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-default" = "inboundExtAuthz"))]
    pub stat_prefix: String,
    /// Longest wait for an answer
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-default" = "1s"))]
    pub timeout: String,
    /// Requests pass when the service does not answer
    pub failure_mode_allow: bool,
}

/// Configuration for metrics, logs and tracing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObservabilitySpec {
    /// Log level of the control plane
    #[serde(skip_serializing_if = "String::is_empty")]
    pub osm_log_level: String,
    /// Serves the control plane's state on port 9092
    pub enable_debug_server: bool,
    /// Distributed tracing
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
    /// Remote logging (osm-edge)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_logging: Option<RemoteLoggingSpec>,
}

/// Distributed tracing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingSpec {
    /// Switches tracing on
    pub enable: bool,
    /// Port of the collector
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Address of the collector
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Path of the collector
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Share of the requests that are traced, 0.0 to 1.0, as number or string (osm-edge)
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub sampled_fraction: Option<serde_json::Value>,
}

/// Remote logging.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteLoggingSpec {
    /// Switches remote logging on
    pub enable: bool,
    /// How much is logged, 0 to 2
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<i64>,
    /// Port of the log service
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Address of the log service
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Path of the log service
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Value of the Authorization header
    #[serde(skip_serializing_if = "String::is_empty")]
    pub authorization: String,
    /// Share of the requests that are logged, 0.0 to 1.0, as number or string
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub sampled_fraction: Option<serde_json::Value>,
}

/// Configuration for certificate management.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSpec {
    /// How long certificates of services are valid, for example `24h`
    pub service_cert_validity_duration: String,
    /// Bits of RSA keys
    pub cert_key_bit_size: i64,
    /// The client certificate of the ingress gateway
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_gateway: Option<IngressGatewayCertificateSpec>,
}

/// The client certificate of the ingress gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressGatewayCertificateSpec {
    /// Names in the certificate
    #[schemars(length(min = 1))]
    pub subject_alt_names: Vec<String>,
    /// How long the certificate is valid
    pub validity_duration: String,
    /// The secret that receives the certificate
    pub secret: SecretReference,
}

/// Feature flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FeatureFlags {
    /// SMI metrics
    #[serde(rename = "enableWASMStats")]
    pub enable_wasm_stats: bool,
    /// Egress policies count
    pub enable_egress_policy: bool,
    /// No longer used
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_multicluster_mode: bool,
    /// xDS snapshot cache
    pub enable_snapshot_cache_mode: bool,
    /// Services of proxies are computed ahead of time
    pub enable_async_proxy_service_mapping: bool,
    /// IngressBackend policies count
    pub enable_ingress_backend_policy: bool,
    /// Active health checks between sidecars (OSM)
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_envoy_active_health_checks: bool,
    /// Active health checks between sidecars (osm-edge)
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_sidecar_active_health_checks: bool,
    /// Retry policies count
    pub enable_retry_policy: bool,
    /// MeshRootCertificates count
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_mesh_root_certificate: bool,
    /// AccessControl policies count (osm-edge)
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_access_control_policy: bool,
    /// AccessCert policies count (osm-edge)
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_access_cert_policy: bool,
    /// Plugins count (osm-edge)
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enable_plugin_policy: bool,
}

/// Properties of the set of clusters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSetSpec {
    /// Names and values copied to the sidecars
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<ClusterProperty>,
}

/// A name and a value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterProperty {
    /// Name of the property
    pub name: String,
    /// Value of the property
    pub value: String,
}

/// Built-in plugin chains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
pub struct PluginChainsSpec {
    /// Chain of inbound TCP
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound_tcp: Vec<PluginSpec>,
    /// Chain of inbound HTTP
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound_http: Vec<PluginSpec>,
    /// Chain of outbound TCP
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound_tcp: Vec<PluginSpec>,
    /// Chain of outbound HTTP
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound_http: Vec<PluginSpec>,
}

/// One plugin of a chain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PluginSpec {
    /// Name of the plugin
    pub plugin: String,
    /// Higher runs earlier
    #[schemars(range(min = 0, max = 65535))]
    pub priority: f64,
    /// Leaves the plugin out
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable: bool,
}
