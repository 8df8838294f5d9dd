//! Pieces that several kinds share, and the schema fragments that no derive can express.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A reference to an object by kind and name in the referrer's own namespace (`matches` of policies).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TypedLocalReference {
    /// API group and version of the object, for example `specs.smi-spec.io/v1alpha4`.
    pub api_group: String,
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
}

/// A secret in a named namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the secret.
    pub name: String,
    /// Namespace of the secret.
    pub namespace: String,
}

/// What the controller writes to `status` of the policy kinds that have one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// `committed` or `error`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub current_status: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// An IPv4 CIDR as upstream's pattern reads it (not anchored at its start), or an IPv6 CIDR, which upstream's
/// pattern refuses although pods may well be dual stack.
pub const CIDR_PATTERN: &str =
    r"((?:\d{1,3}\.){3}\d{1,3})\/(\d{1,2})$|^[0-9a-fA-F.]*:[0-9a-fA-F:.]*\/(\d{1,3})$";

/// `resources` of a container: quantities may be numbers or strings, so anything goes below limits and requests.
pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "Compute resources of the sidecar container",
        "properties": {
            "limits": {
                "type": "object",
                "description": "The most that the container may use",
                "x-kubernetes-preserve-unknown-fields": true
            },
            "requests": {
                "type": "object",
                "description": "What the scheduler sets aside for the container",
                "x-kubernetes-preserve-unknown-fields": true
            }
        }
    })
}

/// A list of port numbers.
pub(crate) fn ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "type": "integer", "minimum": 1, "maximum": 65535 }
    })
}

/// A list of CIDRs.
pub(crate) fn cidrs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "type": "string", "pattern": CIDR_PATTERN }
    })
}

/// A value of which nothing is known.
pub(crate) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// Serialization helper: numbers that upstream leaves out when zero.
pub(crate) fn is_zero(number: &i64) -> bool {
    *number == 0
}
