//! Route tables.

use super::common::{
    DATA_SOURCE, HEADER_VALUE_OPTION, REGEX_MATCHER, REGEX_SUBSTITUTE, STRING_MATCHER,
    SUBSTITUTION_FORMAT,
};
use super::filters::OLD_CORS_POLICY;
use super::message;
use super::rate_limit::RATE_LIMIT;
use super::tracing::{DECORATOR, ROUTE_TRACING};

message!(ROUTE_CONFIGURATION, "envoy.config.route.v3.RouteConfiguration", {
    1 name: take,
    2 virtual_hosts: each VIRTUAL_HOST,
    3 internal_only_headers: take,
    4 response_headers_to_add: each HEADER_VALUE_OPTION,
    5 response_headers_to_remove: take,
    6 request_headers_to_add: each HEADER_VALUE_OPTION,
    7 validate_clusters: ignore "a missing cluster answers 503",
    8 request_headers_to_remove: take,
    9 vhds: refuse,
    10 most_specific_header_mutations_wins: take,
    11 max_direct_response_body_size_bytes: take,
    12 cluster_specifier_plugins: refuse,
    13 request_mirror_policies: refuse,
    14 ignore_port_in_host_matching: take,
    15 ignore_path_parameters_in_path_matching: take,
    16 typed_per_filter_config: overrides,
    17 metadata: take,
    18 vhost_header: refuse,
    19 route_specifiers: refuse,
});

message!(VIRTUAL_HOST, "envoy.config.route.v3.VirtualHost", {
    1 name: take,
    2 domains: take,
    3 routes: each ROUTE,
    4 require_tls: take,
    5 virtual_clusters: ignore "names of statistics are our own",
    6 rate_limits: each RATE_LIMIT,
    7 request_headers_to_add: each HEADER_VALUE_OPTION,
    8 cors: into OLD_CORS_POLICY,
    10 response_headers_to_add: each HEADER_VALUE_OPTION,
    11 response_headers_to_remove: take,
    13 request_headers_to_remove: take,
    14 include_request_attempt_count: take,
    15 typed_per_filter_config: overrides,
    16 retry_policy: into RETRY_POLICY,
    17 hedge_policy: refuse,
    18 per_request_buffer_limit_bytes: refuse,
    19 include_attempt_count_in_response: take,
    20 retry_policy_typed_config: refuse,
    21 matcher: refuse,
    22 request_mirror_policies: refuse,
    23 include_is_timeout_retry_header: take,
    24 metadata: ignore "kept as provenance",
    25 request_body_buffer_limit: refuse,
    26 route_specifiers: refuse,
});

message!(ROUTE, "envoy.config.route.v3.Route", {
    1 match: into ROUTE_MATCH,
    2 route: into ROUTE_ACTION,
    3 redirect: into REDIRECT,
    4 metadata: ignore "kept as provenance",
    5 decorator: into DECORATOR,
    7 direct_response: into DIRECT_RESPONSE,
    9 request_headers_to_add: each HEADER_VALUE_OPTION,
    10 response_headers_to_add: each HEADER_VALUE_OPTION,
    11 response_headers_to_remove: take,
    12 request_headers_to_remove: take,
    13 typed_per_filter_config: overrides,
    14 name: take,
    15 tracing: into ROUTE_TRACING,
    16 per_request_buffer_limit_bytes: refuse,
    17 filter_action: refuse,
    18 non_forwarding_action: refuse,
    19 stat_prefix: ignore "names of statistics are our own",
    20 request_body_buffer_limit: refuse,
    21 route_specifiers: refuse,
});

message!(ROUTE_MATCH, "envoy.config.route.v3.RouteMatch", {
    1 prefix: take,
    2 path: take,
    4 case_sensitive: take,
    6 headers: each HEADER_MATCHER,
    7 query_parameters: each QUERY_MATCHER,
    8 grpc: take,
    9 runtime_fraction: into RUNTIME_FRACTION,
    10 safe_regex: into REGEX_MATCHER,
    11 tls_context: into TLS_CONTEXT_MATCH,
    12 connect_matcher: into CONNECT_MATCHER,
    13 dynamic_metadata: refuse,
    14 path_separated_prefix: take,
    15 path_match_policy: refuse,
    16 filter_state: refuse,
    17 cookies: each COOKIE_MATCHER,
});

message!(QUERY_MATCHER, "envoy.config.route.v3.QueryParameterMatcher", {
    1 name: take,
    5 string_match: into STRING_MATCHER,
    6 present_match: take,
});

message!(HEADER_MATCHER, "envoy.config.route.v3.HeaderMatcher", {
    1 name: take,
    4 exact_match: take,
    6 range_match: take,
    7 present_match: take,
    8 invert_match: take,
    9 prefix_match: take,
    10 suffix_match: take,
    11 safe_regex_match: into REGEX_MATCHER,
    12 contains_match: take,
    13 string_match: into STRING_MATCHER,
    14 treat_missing_header_as_empty: take,
});

message!(ROUTE_ACTION, "envoy.config.route.v3.RouteAction", {
    1 cluster: take,
    2 cluster_header: take,
    3 weighted_clusters: into WEIGHTED,
    4 metadata_match: take,
    5 prefix_rewrite: take,
    6 host_rewrite_literal: take,
    7 auto_host_rewrite: take,
    8 timeout: take,
    9 retry_policy: into RETRY_POLICY,
    11 priority: take,
    13 rate_limits: each RATE_LIMIT,
    14 include_vh_rate_limits: take,
    15 hash_policy: each HASH_POLICY,
    17 cors: into OLD_CORS_POLICY,
    20 cluster_not_found_response_code: take,
    23 max_grpc_timeout: refuse,
    24 idle_timeout: take,
    25 upgrade_configs: each ROUTE_UPGRADE,
    26 internal_redirect_action: refuse,
    27 hedge_policy: refuse,
    28 grpc_timeout_offset: refuse,
    29 host_rewrite_header: take,
    30 request_mirror_policies: refuse,
    31 max_internal_redirects: refuse,
    32 regex_rewrite: into REGEX_SUBSTITUTE,
    33 retry_policy_typed_config: refuse,
    34 internal_redirect_policy: refuse,
    35 host_rewrite_path_regex: into REGEX_SUBSTITUTE,
    36 max_stream_duration: into MAX_STREAM_DURATION,
    37 cluster_specifier_plugin: refuse,
    38 append_x_forwarded_host: take,
    39 inline_cluster_specifier_plugin: refuse,
    40 early_data_policy: refuse,
    41 path_rewrite_policy: refuse,
    42 flush_timeout: take,
    44 host_rewrite: take,
    45 path_rewrite: take,
});

message!(HASH_POLICY, "envoy.config.route.v3.RouteAction.HashPolicy", {
    1 header: into HASH_HEADER,
    2 cookie: take,
    3 connection_properties: take,
    4 terminal: take,
    5 query_parameter: take,
    6 filter_state: refuse,
});

message!(HASH_HEADER, "envoy.config.route.v3.RouteAction.HashPolicy.Header", {
    1 header_name: take,
    2 regex_rewrite: refuse,
});

message!(ROUTE_UPGRADE, "envoy.config.route.v3.RouteAction.UpgradeConfig", {
    1 upgrade_type: take,
    2 enabled: take,
    3 connect_config: refuse,
});

message!(WEIGHTED, "envoy.config.route.v3.WeightedCluster", {
    1 clusters: each CLUSTER_WEIGHT,
    2 runtime_key_prefix: ignore "no runtime",
    3 total_weight: take,
    4 header_name: take,
    5 use_hash_policy: take,
});

message!(CLUSTER_WEIGHT, "envoy.config.route.v3.WeightedCluster.ClusterWeight", {
    1 name: take,
    2 weight: take,
    3 metadata_match: take,
    4 request_headers_to_add: each HEADER_VALUE_OPTION,
    5 response_headers_to_add: each HEADER_VALUE_OPTION,
    6 response_headers_to_remove: take,
    9 request_headers_to_remove: take,
    10 typed_per_filter_config: overrides,
    11 host_rewrite_literal: take,
    12 cluster_header: take,
});

message!(REDIRECT, "envoy.config.route.v3.RedirectAction", {
    1 host_redirect: take,
    2 path_redirect: take,
    3 response_code: take,
    4 https_redirect: take,
    5 prefix_rewrite: take,
    6 strip_query: take,
    7 scheme_redirect: take,
    8 port_redirect: take,
    9 regex_rewrite: into REGEX_SUBSTITUTE,
    10 path_rewrite: take,
});

message!(DIRECT_RESPONSE, "envoy.config.route.v3.DirectResponseAction", {
    1 status: take,
    2 body: into DATA_SOURCE,
    3 body_format: into SUBSTITUTION_FORMAT,
});

message!(RUNTIME_FRACTION, "envoy.config.core.v3.RuntimeFractionalPercent", {
    1 default_value: into FRACTIONAL_PERCENT,
    2 runtime_key: ignore "no runtime: the default counts",
});

message!(FRACTIONAL_PERCENT, "envoy.type.v3.FractionalPercent", {
    1 numerator: take,
    2 denominator: take,
});

message!(TLS_CONTEXT_MATCH, "envoy.config.route.v3.RouteMatch.TlsContextMatchOptions", {
    1 presented: take,
    2 validated: take,
});

message!(
    CONNECT_MATCHER,
    "envoy.config.route.v3.RouteMatch.ConnectMatcher",
    {}
);

message!(COOKIE_MATCHER, "envoy.config.route.v3.CookieMatcher", {
    1 name: take,
    2 string_match: into STRING_MATCHER,
    3 invert_match: take,
});

message!(MAX_STREAM_DURATION, "envoy.config.route.v3.RouteAction.MaxStreamDuration", {
    1 max_stream_duration: take,
    2 grpc_timeout_header_max: take,
    3 grpc_timeout_header_offset: take,
});

message!(RETRY_POLICY, "envoy.config.route.v3.RetryPolicy", {
    1 retry_on: take,
    2 num_retries: take,
    3 per_try_timeout: take,
    4 retry_priority: refuse,
    5 retry_host_predicate: each RETRY_HOST_PREDICATE,
    6 host_selection_retry_max_attempts: take,
    7 retriable_status_codes: take,
    8 retry_back_off: into RETRY_BACK_OFF,
    9 retriable_headers: each HEADER_MATCHER,
    10 retriable_request_headers: each HEADER_MATCHER,
    11 rate_limited_retry_back_off: into RATE_LIMITED_BACK_OFF,
    12 retry_options_predicates: refuse,
    13 per_try_idle_timeout: take,
    14 refresh_cluster_on_retry: refuse,
});

message!(RETRY_HOST_PREDICATE, "envoy.config.route.v3.RetryPolicy.RetryHostPredicate", {
    1 name: take,
    3 typed_config: any PREVIOUS_HOSTS,
});

message!(
    PREVIOUS_HOSTS,
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    {}
);

message!(RETRY_BACK_OFF, "envoy.config.route.v3.RetryPolicy.RetryBackOff", {
    1 base_interval: take,
    2 max_interval: take,
});

message!(RATE_LIMITED_BACK_OFF, "envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff", {
    1 reset_headers: each RESET_HEADER,
    2 max_interval: take,
});

message!(RESET_HEADER, "envoy.config.route.v3.RetryPolicy.ResetHeader", {
    1 name: take,
    2 format: take,
});
