//! Rate limits: local and global, of HTTP and of connections.

use super::common::HEADER_VALUE_OPTION;
use super::filters::{GRPC_SERVICE, RUNTIME_FLAG, RUNTIME_FRACTION};
use super::message;
use super::route::{HEADER_MATCHER, QUERY_MATCHER};

message!(HTTP_LOCAL_RATE_LIMIT, "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit", {
    1 stat_prefix: take,
    2 status: take,
    3 token_bucket: take,
    4 filter_enabled: into RUNTIME_FRACTION,
    5 filter_enforced: into RUNTIME_FRACTION,
    6 response_headers_to_add: each HEADER_VALUE_OPTION,
    8 descriptors: each LOCAL_DESCRIPTOR,
    9 stage: take,
    10 request_headers_to_add_when_not_enforced: each HEADER_VALUE_OPTION,
    11 local_rate_limit_per_downstream_connection: take,
    12 enable_x_ratelimit_headers: take,
    13 vh_rate_limits: take,
    14 always_consume_default_token_bucket: take,
    15 rate_limited_as_resource_exhausted: take,
    16 local_cluster_rate_limit: refuse,
    17 rate_limits: each RATE_LIMIT,
    18 max_dynamic_descriptors: ignore "descriptors for all values are refused",
    19 enable_retry_after_header: take,
});

message!(LOCAL_DESCRIPTOR, "envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor", {
    1 entries: take,
    2 token_bucket: take,
    3 shadow_mode: zero "a descriptor without effect is better left out",
});

message!(HTTP_RATE_LIMIT, "envoy.extensions.filters.http.ratelimit.v3.RateLimit", {
    1 domain: take,
    2 stage: take,
    3 request_type: take,
    4 timeout: take,
    5 failure_mode_deny: take,
    6 rate_limited_as_resource_exhausted: take,
    7 rate_limit_service: into RATE_LIMIT_SERVICE,
    8 enable_x_ratelimit_headers: take,
    9 disable_x_envoy_ratelimited_header: take,
    10 rate_limited_status: take,
    11 response_headers_to_add: each HEADER_VALUE_OPTION,
    12 status_on_error: take,
    13 stat_prefix: take,
    14 filter_enabled: into RUNTIME_FRACTION,
    15 filter_enforced: into RUNTIME_FRACTION,
    16 failure_mode_deny_percent: into RUNTIME_FRACTION,
    17 rate_limits: each RATE_LIMIT,
    18 metadata_namespace: ignore "no dynamic metadata",
    19 enable_retry_after_header: take,
});

message!(HTTP_RATE_LIMIT_PER_ROUTE, "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute", {
    1 vh_rate_limits: take,
    2 override_option: zero "Envoy does not honour it, either",
    3 rate_limits: each RATE_LIMIT,
    4 domain: take,
});

message!(RATE_LIMIT_SERVICE, "envoy.config.ratelimit.v3.RateLimitServiceConfig", {
    2 grpc_service: into GRPC_SERVICE,
    4 transport_api_version: take,
});

message!(RATE_LIMIT, "envoy.config.route.v3.RateLimit", {
    1 stage: take,
    2 disable_key: ignore "no runtime",
    3 actions: each RATE_LIMIT_ACTION,
    4 limit: into LIMIT_OVERRIDE,
    5 hits_addend: into HITS_ADDEND,
    6 apply_on_stream_done: zero "limits are applied when a request begins",
    7 x_ratelimit_option: zero "the filter's setting counts",
});

message!(LIMIT_OVERRIDE, "envoy.config.route.v3.RateLimit.Override", {
    1 dynamic_metadata: refuse,
    2 rate_limit: take,
});

message!(HITS_ADDEND, "envoy.config.route.v3.RateLimit.HitsAddend", {
    1 number: take,
    2 format: refuse,
    3 is_negative_hits: zero "tokens are not given back",
});

message!(RATE_LIMIT_ACTION, "envoy.config.route.v3.RateLimit.Action", {
    1 source_cluster: take,
    2 destination_cluster: take,
    3 request_headers: take,
    4 remote_address: take,
    5 generic_key: into GENERIC_KEY,
    6 header_value_match: into HEADER_VALUE_MATCH,
    7 dynamic_metadata: refuse,
    8 metadata: refuse,
    9 extension: refuse,
    10 masked_remote_address: take,
    11 query_parameter_value_match: into QUERY_VALUE_MATCH,
    12 query_parameters: take,
    13 remote_address_match: refuse,
});

message!(GENERIC_KEY, "envoy.config.route.v3.RateLimit.Action.GenericKey", {
    1 descriptor_value: take,
    2 descriptor_key: take,
    3 default_value: ignore "values are literal, as by Envoy's default",
});

message!(HEADER_VALUE_MATCH, "envoy.config.route.v3.RateLimit.Action.HeaderValueMatch", {
    1 descriptor_value: take,
    2 expect_match: take,
    3 headers: each HEADER_MATCHER,
    4 descriptor_key: take,
    5 default_value: ignore "values are literal, as by Envoy's default",
});

message!(QUERY_VALUE_MATCH, "envoy.config.route.v3.RateLimit.Action.QueryParameterValueMatch", {
    1 descriptor_value: take,
    2 expect_match: take,
    3 query_parameters: each QUERY_MATCHER,
    4 descriptor_key: take,
    5 default_value: ignore "values are literal, as by Envoy's default",
});

message!(NETWORK_LOCAL_RATE_LIMIT, "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit", {
    1 stat_prefix: take,
    2 token_bucket: take,
    3 runtime_enabled: into RUNTIME_FLAG,
    4 share_key: take,
});

message!(NETWORK_RATE_LIMIT, "envoy.extensions.filters.network.ratelimit.v3.RateLimit", {
    1 stat_prefix: take,
    2 domain: take,
    3 descriptors: each NETWORK_DESCRIPTOR,
    4 timeout: take,
    5 failure_mode_deny: take,
    6 rate_limit_service: into RATE_LIMIT_SERVICE,
});

message!(NETWORK_DESCRIPTOR, "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor", {
    1 entries: take,
    2 limit: refuse,
    3 hits_addend: refuse,
    4 is_negative_hits: refuse,
});

message!(CONNECTION_LIMIT, "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit", {
    1 stat_prefix: take,
    2 max_connections: take,
    3 delay: take,
    4 runtime_enabled: into RUNTIME_FLAG,
});
