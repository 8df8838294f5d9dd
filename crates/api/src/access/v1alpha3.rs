//! SMI TrafficTarget, `access.smi-spec.io/v1alpha3`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kind::kind;

kind! {
    /// Which identities may reach which identity, by which routes.
    TrafficTarget: TrafficTargetSpec;
    group: "access.smi-spec.io", version: "v1alpha3", plural: "traffictargets"
}

/// Which identities may reach which identity, by which routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficTargetSpec {
    /// The destination of this traffic target.
    pub destination: IdentityBindingSubject,
    /// Specifications of this traffic target.
    pub rules: Vec<TrafficTargetRule>,
    /// Sources of this traffic target.
    pub sources: Vec<IdentityBindingSubject>,
}

/// An identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IdentityBindingSubject {
    /// Kind of the subject; `ServiceAccount` is the one that counts.
    pub kind: String,
    /// Name of the subject.
    pub name: String,
    /// Namespace of the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Routes by which the destination may be reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficTargetRule {
    /// Kind of the object with the routes.
    #[schemars(extend("enum" = ["HTTPRouteGroup", "TCPRoute", "UDPRoute"]))]
    pub kind: String,
    /// Name of the object with the routes.
    pub name: String,
    /// Names of its matches; all if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<String>,
}
