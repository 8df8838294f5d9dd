//! HTTP filters, and what routes say about them.

use super::common::{HEADER_VALUE_OPTION, STRING_MATCHER};
use super::ext_authz::{EXT_AUTHZ, EXT_AUTHZ_PER_ROUTE};
use super::http::{HTTP_RBAC, HTTP_RBAC_PER_ROUTE, ROUTER};
use super::rate_limit::{HTTP_LOCAL_RATE_LIMIT, HTTP_RATE_LIMIT, HTTP_RATE_LIMIT_PER_ROUTE};
use super::route::HEADER_MATCHER;
use super::{Message, message};

/// What `HttpFilter.typed_config` may be. Other filters (Lua, Wasm, …) are refused by name.
pub(super) static FILTERS: &[&Message] = &[
    &HTTP_RBAC,
    &HEADER_MUTATION_FILTER,
    &CORS,
    &FAULT,
    &HEALTH_CHECK_FILTER,
    &HTTP_LOCAL_RATE_LIMIT,
    &HTTP_RATE_LIMIT,
    &EXT_AUTHZ,
    &BUFFER,
    &ROUTER,
];

/// What a value of `typed_per_filter_config` may be.
pub(super) static OVERRIDES: &[&Message] = &[
    &FILTER_CONFIG,
    &HTTP_RBAC_PER_ROUTE,
    &HEADER_MUTATION_PER_ROUTE,
    &CORS_POLICY,
    &FAULT,
    &HTTP_LOCAL_RATE_LIMIT,
    &HTTP_RATE_LIMIT_PER_ROUTE,
    &EXT_AUTHZ_PER_ROUTE,
    &BUFFER_PER_ROUTE,
];

message!(HTTP_FILTER, "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", {
    1 name: take,
    4 typed_config: filter,
    5 config_discovery: refuse,
    6 is_optional: ignore "an unknown filter is refused in any case",
    7 disabled: take,
});

message!(FILTER_CONFIG, "envoy.config.route.v3.FilterConfig", {
    1 config: override,
    2 is_optional: ignore "an unknown filter is refused in any case",
    3 disabled: take,
});

message!(HEADER_MUTATION_FILTER, "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", {
    1 mutations: into MUTATIONS,
    2 most_specific_header_mutations_wins: take,
});

message!(HEADER_MUTATION_PER_ROUTE, "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute", {
    1 mutations: into MUTATIONS,
});

message!(MUTATIONS, "envoy.extensions.filters.http.header_mutation.v3.Mutations", {
    1 request_mutations: each HEADER_MUTATION,
    2 response_mutations: each HEADER_MUTATION,
    3 query_parameter_mutations: each KEY_VALUE_MUTATION,
    4 response_trailers_mutations: refuse,
    5 request_trailers_mutations: refuse,
});

message!(HEADER_MUTATION, "envoy.config.common.mutation_rules.v3.HeaderMutation", {
    1 remove: take,
    2 append: into HEADER_VALUE_OPTION,
    3 remove_on_match: into REMOVE_ON_MATCH,
});

message!(REMOVE_ON_MATCH, "envoy.config.common.mutation_rules.v3.HeaderMutation.RemoveOnMatch", {
    1 key_matcher: into STRING_MATCHER,
});

message!(KEY_VALUE_MUTATION, "envoy.config.core.v3.KeyValueMutation", {
    1 append: into KEY_VALUE_APPEND,
    2 remove: take,
});

message!(KEY_VALUE_APPEND, "envoy.config.core.v3.KeyValueAppend", {
    1 entry: refuse,
    2 action: take,
    3 record: take,
});

message!(CORS, "envoy.extensions.filters.http.cors.v3.Cors", {});

message!(CORS_POLICY, "envoy.extensions.filters.http.cors.v3.CorsPolicy", {
    1 allow_origin_string_match: each STRING_MATCHER,
    2 allow_methods: take,
    3 allow_headers: take,
    4 expose_headers: take,
    5 max_age: take,
    6 allow_credentials: take,
    7 filter_enabled: into RUNTIME_FRACTION,
    8 shadow_enabled: into RUNTIME_FRACTION,
    9 allow_private_network_access: take,
    10 forward_not_matching_preflights: take,
});

message!(OLD_CORS_POLICY, "envoy.config.route.v3.CorsPolicy", {
    2 allow_methods: take,
    3 allow_headers: take,
    4 expose_headers: take,
    5 max_age: take,
    6 allow_credentials: take,
    9 filter_enabled: into RUNTIME_FRACTION,
    10 shadow_enabled: into RUNTIME_FRACTION,
    11 allow_origin_string_match: each STRING_MATCHER,
    12 allow_private_network_access: take,
    13 forward_not_matching_preflights: take,
});

message!(FAULT, "envoy.extensions.filters.http.fault.v3.HTTPFault", {
    1 delay: into FAULT_DELAY,
    2 abort: into FAULT_ABORT,
    3 upstream_cluster: take,
    4 headers: each HEADER_MATCHER,
    5 downstream_nodes: take,
    6 max_active_faults: take,
    7 response_rate_limit: refuse,
    8 delay_percent_runtime: ignore "no runtime",
    9 abort_percent_runtime: ignore "no runtime",
    10 delay_duration_runtime: ignore "no runtime",
    11 abort_http_status_runtime: ignore "no runtime",
    12 max_active_faults_runtime: ignore "no runtime",
    13 response_rate_limit_percent_runtime: ignore "no runtime",
    14 abort_grpc_status_runtime: ignore "no runtime",
    15 disable_downstream_cluster_stats: ignore "there are none",
    16 filter_metadata: ignore "no dynamic metadata",
});

message!(FAULT_DELAY, "envoy.extensions.filters.common.fault.v3.FaultDelay", {
    3 fixed_delay: take,
    4 percentage: take,
    5 header_delay: take,
});

message!(FAULT_ABORT, "envoy.extensions.filters.http.fault.v3.FaultAbort", {
    2 http_status: take,
    3 percentage: take,
    4 header_abort: take,
    5 grpc_status: take,
    6 response_body: take,
});

message!(HEALTH_CHECK_FILTER, "envoy.extensions.filters.http.health_check.v3.HealthCheck", {
    1 pass_through_mode: take,
    3 cache_time: refuse,
    4 cluster_min_healthy_percentages: take,
    5 headers: each HEADER_MATCHER,
});

message!(BUFFER, "envoy.extensions.filters.http.buffer.v3.Buffer", {
    1 max_request_bytes: take,
});

message!(BUFFER_PER_ROUTE, "envoy.extensions.filters.http.buffer.v3.BufferPerRoute", {
    1 disabled: take,
    2 buffer: into BUFFER,
});

message!(RUNTIME_FRACTION, "envoy.config.core.v3.RuntimeFractionalPercent", {
    1 default_value: take,
    2 runtime_key: ignore "no runtime",
});

message!(RUNTIME_FLAG, "envoy.config.core.v3.RuntimeFeatureFlag", {
    1 default_value: take,
    2 runtime_key: ignore "no runtime",
});

message!(GRPC_SERVICE, "envoy.config.core.v3.GrpcService", {
    1 envoy_grpc: into ENVOY_GRPC,
    2 google_grpc: refuse,
    3 timeout: take,
    5 initial_metadata: take,
    6 retry_policy: refuse,
});

message!(ENVOY_GRPC, "envoy.config.core.v3.GrpcService.EnvoyGrpc", {
    1 cluster_name: take,
    2 authority: take,
    3 retry_policy: refuse,
    4 max_receive_message_length: ignore "bounded at 1 MiB",
    5 skip_envoy_headers: ignore "none are added",
});
