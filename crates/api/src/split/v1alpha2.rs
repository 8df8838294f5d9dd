//! SMI TrafficSplit, `split.smi-spec.io/v1alpha2`: served for manifests of OSM; read [`super::v1alpha4`] in programs,
//! this version does not show `matches`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::v1alpha4::TrafficSplitBackend;
use crate::kind::kind;

kind! {
    /// How the traffic of a service is spread over others.
    TrafficSplit: TrafficSplitSpec;
    group: "split.smi-spec.io", version: "v1alpha2", plural: "trafficsplits"
}

/// How the traffic of a service is spread over others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSplitSpec {
    /// The apex service of this split.
    pub service: String,
    /// The backend services of this split.
    pub backends: Vec<TrafficSplitBackend>,
}
