//! The spec of UpstreamTrafficSetting.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod global;

pub use global::*;

/// Connection limits, circuit breaking and rate limits of a destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTrafficSettingSpec {
    /// The destination: a service's name with its namespace, or the host of an Egress
    pub host: String,
    /// Limits of connections and requests
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_settings: Option<ConnectionSettings>,
    /// Rate limits of the whole destination
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Rate limits of single routes
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_routes: Vec<HttpRoute>,
}

/// Limits of connections and requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionSettings {
    /// Limits of connections
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpConnectionSettings>,
    /// Limits of requests
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpConnectionSettings>,
}

/// Limits of connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpConnectionSettings {
    /// Most open connections
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_connections: Option<u64>,
    /// Longest wait for a connection
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
}

/// Limits of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpConnectionSettings {
    /// Most requests under way
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_requests: Option<u64>,
    /// Most requests on one connection
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_requests_per_connection: Option<u64>,
    /// Most requests that wait for a connection
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_pending_requests: Option<u64>,
    /// Most retries under way
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_retries: Option<u64>,
    /// Breaks the circuit by errors and slow answers (osm-edge)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaking: Option<CircuitBreaking>,
}

/// Breaks the circuit by errors and slow answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaking {
    /// Window of the statistics
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stat_time_window: Option<String>,
    /// Fewest requests in a window before the circuit may break
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_request_amount: Option<u64>,
    /// How long the circuit stays broken
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_time_window: Option<String>,
    /// An answer is slow after this time
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_time_threshold: Option<String>,
    /// Slow answers that break the circuit
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub slow_amount_threshold: Option<u64>,
    /// Share of slow answers that breaks the circuit
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub slow_ratio_threshold: Option<f64>,
    /// Errors that break the circuit
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub error_amount_threshold: Option<u64>,
    /// Share of errors that breaks the circuit
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub error_ratio_threshold: Option<f64>,
    /// Status of answers while the circuit is broken
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_status_code: Option<i64>,
    /// Body of answers while the circuit is broken
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_response_content: Option<String>,
}

/// Rate limits of the whole destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RateLimit {
    /// Counted by each server's sidecar
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalRateLimit>,
    /// Counted by a rate limit service
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalRateLimit>,
}

/// Rate limits counted by each server's sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalRateLimit {
    /// Limit of connections
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpLocalRateLimit>,
    /// Limit of requests
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpLocalRateLimit>,
}

/// Limit of connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpLocalRateLimit {
    /// Connections for each unit
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connections: Option<u64>,
    /// Unit of time
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["second", "minute", "hour"]))]
    pub unit: String,
    /// Connections above the limit for a short time
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<i64>,
}

/// Limit of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpLocalRateLimit {
    /// Requests for each unit
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests: Option<u64>,
    /// Unit of time
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["second", "minute", "hour"]))]
    pub unit: String,
    /// Requests above the limit for a short time
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<i64>,
    /// Status of refused requests
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub response_status_code: Option<u16>,
    /// Headers of answers to refused requests
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers_to_add: Vec<HttpHeaderValue>,
}

/// A header and its value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHeaderValue {
    /// Name of the header
    #[schemars(length(min = 1))]
    pub name: String,
    /// Value of the header
    #[schemars(length(min = 1))]
    pub value: String,
}

/// Rate limits of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Path of the route, as an HTTPRouteGroup has it
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1))]
    pub path: String,
    /// The limits
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<HttpRouteRateLimit>,
}

/// The limits of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRateLimit {
    /// Counted by each server's sidecar
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<HttpLocalRateLimit>,
    /// Counted by a rate limit service
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<HttpRouteGlobalRateLimit>,
}
