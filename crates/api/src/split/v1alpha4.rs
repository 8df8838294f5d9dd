//! SMI TrafficSplit, `split.smi-spec.io/v1alpha4`: the stored version.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kind::kind;

kind! {
    /// How the traffic of a service is spread over others.
    TrafficSplit: TrafficSplitSpec;
    group: "split.smi-spec.io", version: "v1alpha4", plural: "trafficsplits"
}

/// How the traffic of a service is spread over others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitSpec {
    /// The apex service of this split.
    pub service: String,
    /// The HTTPRouteGroups to which the split applies; all requests if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<TrafficSplitMatch>,
    /// The backend services of this split.
    pub backends: Vec<TrafficSplitBackend>,
}

/// An HTTPRouteGroup to which a split applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitMatch {
    /// Kind of the matching group.
    #[schemars(extend("enum" = ["HTTPRouteGroup"]))]
    pub kind: String,
    /// Name of the matching group.
    pub name: String,
}

/// One backend of a split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitBackend {
    /// Name of the Kubernetes service.
    pub service: String,
    /// Traffic weight value of this backend.
    pub weight: f64,
}
