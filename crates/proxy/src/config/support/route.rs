//! Route tables.

use super::common::{DATA_SOURCE, HEADER_VALUE_OPTION, REGEX_MATCHER, STRING_MATCHER};
use super::message;

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
    10 most_specific_header_mutations_wins: refuse,
    11 max_direct_response_body_size_bytes: ignore "bounded with the resource",
    12 cluster_specifier_plugins: refuse,
    13 request_mirror_policies: refuse,
    14 ignore_port_in_host_matching: take,
    15 ignore_path_parameters_in_path_matching: refuse,
    16 typed_per_filter_config: overrides,
    17 metadata: ignore "kept as provenance",
    18 vhost_header: refuse,
    19 route_specifiers: refuse,
});

message!(VIRTUAL_HOST, "envoy.config.route.v3.VirtualHost", {
    1 name: take,
    2 domains: take,
    3 routes: each ROUTE,
    4 require_tls: zero "not supported",
    5 virtual_clusters: ignore "names of statistics are our own",
    6 rate_limits: refuse,
    7 request_headers_to_add: each HEADER_VALUE_OPTION,
    8 cors: refuse,
    10 response_headers_to_add: each HEADER_VALUE_OPTION,
    11 response_headers_to_remove: take,
    13 request_headers_to_remove: take,
    14 include_request_attempt_count: ignore "one attempt",
    15 typed_per_filter_config: overrides,
    16 retry_policy: refuse,
    17 hedge_policy: refuse,
    18 per_request_buffer_limit_bytes: refuse,
    19 include_attempt_count_in_response: refuse,
    20 retry_policy_typed_config: refuse,
    21 matcher: refuse,
    22 request_mirror_policies: refuse,
    23 include_is_timeout_retry_header: refuse,
    24 metadata: ignore "kept as provenance",
    25 request_body_buffer_limit: refuse,
    26 route_specifiers: refuse,
});

message!(ROUTE, "envoy.config.route.v3.Route", {
    1 match: into ROUTE_MATCH,
    2 route: into ROUTE_ACTION,
    3 redirect: into REDIRECT,
    4 metadata: ignore "kept as provenance",
    5 decorator: ignore "no spans yet",
    7 direct_response: into DIRECT_RESPONSE,
    9 request_headers_to_add: each HEADER_VALUE_OPTION,
    10 response_headers_to_add: each HEADER_VALUE_OPTION,
    11 response_headers_to_remove: take,
    12 request_headers_to_remove: take,
    13 typed_per_filter_config: overrides,
    14 name: take,
    15 tracing: ignore "no spans yet",
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
    9 runtime_fraction: refuse,
    10 safe_regex: into REGEX_MATCHER,
    11 tls_context: refuse,
    12 connect_matcher: refuse,
    13 dynamic_metadata: refuse,
    14 path_separated_prefix: take,
    15 path_match_policy: refuse,
    16 filter_state: refuse,
    17 cookies: refuse,
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
    2 cluster_header: refuse,
    3 weighted_clusters: into WEIGHTED,
    4 metadata_match: refuse,
    5 prefix_rewrite: take,
    6 host_rewrite_literal: take,
    7 auto_host_rewrite: take,
    8 timeout: take,
    9 retry_policy: refuse,
    11 priority: ignore "one priority",
    13 rate_limits: refuse,
    14 include_vh_rate_limits: refuse,
    15 hash_policy: refuse,
    17 cors: refuse,
    20 cluster_not_found_response_code: take,
    23 max_grpc_timeout: ignore "deprecated",
    24 idle_timeout: take,
    25 upgrade_configs: each ROUTE_UPGRADE,
    26 internal_redirect_action: refuse,
    27 hedge_policy: refuse,
    28 grpc_timeout_offset: ignore "deprecated",
    29 host_rewrite_header: refuse,
    30 request_mirror_policies: refuse,
    31 max_internal_redirects: refuse,
    32 regex_rewrite: refuse,
    33 retry_policy_typed_config: refuse,
    34 internal_redirect_policy: refuse,
    35 host_rewrite_path_regex: refuse,
    36 max_stream_duration: refuse,
    37 cluster_specifier_plugin: refuse,
    38 append_x_forwarded_host: take,
    39 inline_cluster_specifier_plugin: refuse,
    40 early_data_policy: refuse,
    41 path_rewrite_policy: refuse,
    42 flush_timeout: refuse,
    44 host_rewrite: refuse,
    45 path_rewrite: refuse,
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
    4 header_name: refuse,
    5 use_hash_policy: refuse,
});

message!(CLUSTER_WEIGHT, "envoy.config.route.v3.WeightedCluster.ClusterWeight", {
    1 name: take,
    2 weight: take,
    3 metadata_match: refuse,
    4 request_headers_to_add: each HEADER_VALUE_OPTION,
    5 response_headers_to_add: each HEADER_VALUE_OPTION,
    6 response_headers_to_remove: take,
    9 request_headers_to_remove: take,
    10 typed_per_filter_config: overrides,
    11 host_rewrite_literal: refuse,
    12 cluster_header: refuse,
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
    9 regex_rewrite: refuse,
    10 path_rewrite: refuse,
});

message!(DIRECT_RESPONSE, "envoy.config.route.v3.DirectResponseAction", {
    1 status: take,
    2 body: into DATA_SOURCE,
    3 body_format: refuse,
});
