//! Egress, IngressBackend, Retry and UpstreamTrafficSetting, `policy.openservicemesh.io/v1alpha1`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kind::kind;
use crate::shared::{CIDR_PATTERN, PolicyStatus, SecretReference, TypedLocalReference};

mod upstream;

pub use upstream::*;

kind! {
    /// Which workloads may reach which destinations outside the mesh.
    Egress: EgressSpec;
    group: "policy.openservicemesh.io", version: "v1alpha1", plural: "egresses"
}

kind! {
    /// Which clients outside the mesh may reach a service in it.
    IngressBackend: IngressBackendSpec, status: PolicyStatus;
    group: "policy.openservicemesh.io", version: "v1alpha1", plural: "ingressbackends"
}

kind! {
    /// When requests between workloads are tried again.
    Retry: RetrySpec;
    group: "policy.openservicemesh.io", version: "v1alpha1", plural: "retries"
}

kind! {
    /// Connection limits, circuit breaking and rate limits of a destination.
    UpstreamTrafficSetting: UpstreamTrafficSettingSpec, status: PolicyStatus;
    group: "policy.openservicemesh.io", version: "v1alpha1", plural: "upstreamtrafficsettings"
}

/// Which workloads may reach which destinations outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressSpec {
    /// The workloads that may
    pub sources: Vec<EgressSource>,
    /// Names of the destination: `Host` for http, SNI for https
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Addresses of the destination, as CIDRs
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = CIDR_PATTERN)))]
    pub ip_addresses: Vec<String>,
    /// Ports of the destination
    pub ports: Vec<PortSpec>,
    /// HTTPRouteGroups that the requests must match, and UpstreamTrafficSettings that apply
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<TypedLocalReference>,
}

/// A workload that may reach the destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressSource {
    /// Always `ServiceAccount`
    #[schemars(extend("enum" = ["ServiceAccount"]))]
    pub kind: String,
    /// Name of the ServiceAccount
    pub name: String,
    /// Namespace of the ServiceAccount
    pub namespace: String,
    /// The sidecar speaks TLS with a client certificate to the destination (osm-edge)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<EgressMtls>,
}

/// Origination of TLS for a destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressMtls {
    /// Who issues the certificate: the mesh or somebody else
    #[schemars(extend("enum" = ["osm", "other"]))]
    pub issuer: String,
    /// The certificate
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<EgressCertificate>,
}

/// The client certificate for a destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressCertificate {
    /// Serial number
    #[schemars(range(min = 1, max = 65535))]
    pub sn: i64,
    /// Names in the certificate
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub subject_alt_names: Vec<String>,
    /// End of its validity
    pub expiration: String,
    /// The secret with `ca.crt`, `tls.crt` and `tls.key`
    pub secret: SecretReference,
}

/// A port and what is spoken on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortSpec {
    /// Port number
    #[schemars(range(min = 1, max = 65535))]
    pub number: u16,
    /// `http`, `https`, `tcp` or `tcp-server-first`
    pub protocol: String,
}

/// Which clients outside the mesh may reach a service in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressBackendSpec {
    /// The services, by name, in the namespace of this object
    pub backends: Vec<BackendSpec>,
    /// The clients
    pub sources: Vec<IngressSource>,
    /// HTTPRouteGroups that the requests must match
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<TypedLocalReference>,
}

/// A service that clients outside the mesh may reach.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendSpec {
    /// Name of the service
    pub name: String,
    /// The port of its pods (the target port)
    pub port: BackendPort,
    /// What clients must prove
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

/// A port of a backend and what is spoken on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendPort {
    /// Port number
    #[schemars(range(min = 1, max = 65535))]
    pub number: u16,
    /// `http`, `https`, `grpc` or `tcp`
    pub protocol: String,
}

/// What clients must prove.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// TLS without a client certificate is accepted
    pub skip_client_cert_validation: bool,
    /// Server names that clients may ask for
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sni_hosts: Vec<String>,
}

/// A client outside the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressSource {
    /// `Service`, `AuthenticatedPrincipal` or `IPRange`
    pub kind: String,
    /// Name of the service, principal, or the CIDR
    pub name: String,
    /// Namespace of the service
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// When requests between workloads are tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// The client
    pub source: RetrySubject,
    /// The services
    pub destinations: Vec<RetrySubject>,
    /// When and how
    pub retry_policy: RetryPolicySpec,
}

/// A client or a service of a retry policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySubject {
    /// `ServiceAccount` for a source, `Service` for a destination
    pub kind: String,
    /// Name
    pub name: String,
    /// Namespace
    pub namespace: String,
}

/// When and how requests are tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicySpec {
    /// Conditions, comma separated
    pub retry_on: String,
    /// Longest wait for each try
    pub per_try_timeout: String,
    /// Most tries after the first
    pub num_retries: i64,
    /// First pause between tries
    pub retry_backoff_base_interval: String,
}
