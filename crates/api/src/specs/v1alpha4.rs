//! SMI HTTPRouteGroup and TCPRoute, `specs.smi-spec.io/v1alpha4`.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::kind::kind;

kind! {
    /// Kinds of HTTP requests, by path, method and headers.
    HTTPRouteGroup: HTTPRouteGroupSpec;
    group: "specs.smi-spec.io", version: "v1alpha4", plural: "httproutegroups"
}

kind! {
    /// Ports of TCP traffic.
    TCPRoute: TCPRouteSpec;
    group: "specs.smi-spec.io", version: "v1alpha4", plural: "tcproutes"
}

/// Kinds of HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HTTPRouteGroupSpec {
    /// Match conditions of this route group.
    pub matches: Vec<HTTPMatch>,
}

/// One kind of HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HTTPMatch {
    /// Name of the HTTP route.
    pub name: String,
    /// URI path regex of the HTTP route; any if left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path_regex: String,
    /// The HTTP methods of this HTTP route; all if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "methods")]
    pub methods: Vec<String>,
    /// Header match conditions of this HTTP route: names and regular expressions of their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<BTreeMap<String, String>>,
}

fn methods(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "string",
            "enum": ["*", "GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
        }
    })
}

/// Ports of TCP traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TCPRouteSpec {
    /// Port match conditions of this route.
    pub matches: TCPMatch,
}

/// Port match conditions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TCPMatch {
    /// The ports; all if left out.
    #[serde(default)]
    #[schemars(schema_with = "integers")]
    pub ports: Vec<i64>,
}

fn integers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "integer" } })
}
