//! Rate limits counted by a rate limit service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rate limits counted by a rate limit service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GlobalRateLimit {
    /// Limit of connections
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpGlobalRateLimit>,
    /// Limit of requests
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpGlobalRateLimit>,
}

/// Address of a rate limit service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitService {
    /// Host of the service
    #[schemars(length(min = 1))]
    pub host: String,
    /// Port of the service
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// Limit of connections by a rate limit service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpGlobalRateLimit {
    /// The service
    pub rate_limit_service: RateLimitService,
    /// Domain of the descriptors
    pub domain: String,
    /// What is counted
    #[schemars(length(min = 1))]
    pub descriptors: Vec<TcpRateLimitDescriptor>,
    /// Longest wait for the service
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Connections pass when the service does not answer
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<bool>,
}

/// Entries counted together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRateLimitDescriptor {
    /// The entries
    #[schemars(length(min = 1))]
    pub entries: Vec<TcpRateLimitDescriptorEntry>,
}

/// A key and its value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRateLimitDescriptorEntry {
    /// Key of the entry
    pub key: String,
    /// Value of the entry
    pub value: String,
}

/// Limit of requests by a rate limit service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGlobalRateLimit {
    /// The service
    pub rate_limit_service: RateLimitService,
    /// Domain of the descriptors
    pub domain: String,
    /// What is counted for every request of the destination
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub descriptors: Vec<HttpRateLimitDescriptor>,
    /// Longest wait for the service
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Requests pass when the service does not answer
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<bool>,
    /// Answers tell the limit
    #[serde(
        default,
        rename = "enableXRateLimitHeaders",
        skip_serializing_if = "Option::is_none"
    )]
    pub enable_x_rate_limit_headers: Option<bool>,
    /// Status of refused requests
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub response_status_code: Option<u16>,
}

/// Limits of a route by a rate limit service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteGlobalRateLimit {
    /// What is counted
    #[schemars(length(min = 1))]
    pub descriptors: Vec<HttpRateLimitDescriptor>,
}

/// Entries counted together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRateLimitDescriptor {
    /// The entries
    #[schemars(length(min = 1))]
    pub entries: Vec<HttpRateLimitDescriptorEntry>,
}

/// One entry; exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("oneOf" = [
    { "required": ["genericKey"] },
    { "required": ["remoteAddress"] },
    { "required": ["requestHeader"] },
    { "required": ["headerValueMatch"] }
]))]
pub struct HttpRateLimitDescriptorEntry {
    /// A fixed key and value
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_key: Option<GenericKeyEntry>,
    /// The client's address
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<RemoteAddressEntry>,
    /// The value of a header
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header: Option<RequestHeaderEntry>,
    /// A fixed value if headers match
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_value_match: Option<HeaderValueMatchEntry>,
}

/// A fixed key and value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenericKeyEntry {
    /// Value of the entry
    #[schemars(length(min = 1))]
    pub value: String,
    /// Key of the entry; `generic_key` if empty
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1))]
    pub key: String,
}

/// The client's address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RemoteAddressEntry {}

/// The value of a header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestHeaderEntry {
    /// Name of the header
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key of the entry
    #[schemars(length(min = 1))]
    pub key: String,
}

/// A fixed value if headers match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderValueMatchEntry {
    /// Value of the entry
    #[schemars(length(min = 1))]
    pub value: String,
    /// What the headers must look like
    #[schemars(length(min = 1))]
    pub headers: Vec<HttpHeaderMatcher>,
    /// Key of the entry; `header_match` if empty
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// False: counts requests that do not match
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_match: Option<bool>,
}

/// What a header must look like; exactly one of the conditions is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["name", "exact"] },
    { "required": ["name", "prefix"] },
    { "required": ["name", "suffix"] },
    { "required": ["name", "regex"] },
    { "required": ["name", "contains"] },
    { "required": ["name", "present"] }
]))]
pub struct HttpHeaderMatcher {
    /// Name of the header
    #[schemars(length(min = 1))]
    pub name: String,
    /// The value is this
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub exact: Option<String>,
    /// The value begins with this
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub prefix: Option<String>,
    /// The value ends with this
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub suffix: Option<String>,
    /// The value matches this
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub regex: Option<String>,
    /// The value contains this
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub contains: Option<String>,
    /// The header is there (or is not)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}
