//! The HTTP connection manager, its filters and RBAC.

use super::access::{ACCESS_LOG, FILTER};
use super::common::{
    CIDR_RANGE, COMMON_HTTP, DATA_SOURCE, HEADER_VALUE_OPTION, HTTP1, HTTP2, PATH_MATCHER,
    STRING_MATCHER, SUBSTITUTION_FORMAT,
};
use super::filters::HTTP_FILTER;
use super::message;
use super::route::{HEADER_MATCHER, ROUTE_CONFIGURATION};
use super::tracing::TRACING;

message!(HTTP_CONNECTION_MANAGER, "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", {
    1 codec_type: take,
    2 stat_prefix: take,
    3 rds: into RDS,
    4 route_config: into ROUTE_CONFIGURATION,
    5 http_filters: each HTTP_FILTER,
    6 add_user_agent: zero "no User-Agent is added",
    7 tracing: into TRACING,
    8 http_protocol_options: into HTTP1,
    9 http2_protocol_options: into HTTP2,
    10 server_name: take,
    12 drain_timeout: ignore "drained with the proxy",
    13 access_log: each ACCESS_LOG,
    14 use_remote_address: take,
    15 generate_request_id: take,
    16 forward_client_cert_details: take,
    17 set_current_client_cert_details: into CERT_DETAILS,
    18 proxy_100_continue: ignore "100-continue is answered when the body is read",
    19 xff_num_trusted_hops: take,
    20 represent_ipv4_remote_address_as_ipv4_mapped_ipv6: refuse,
    21 skip_xff_append: take,
    22 via: take,
    23 upgrade_configs: each HCM_UPGRADE,
    24 stream_idle_timeout: take,
    25 internal_address_config: into INTERNAL_ADDRESSES,
    26 delayed_close_timeout: ignore "closed when flushed",
    28 request_timeout: take,
    29 max_request_headers_kb: take,
    30 normalize_path: take,
    31 scoped_routes: refuse,
    32 preserve_external_request_id: take,
    33 merge_slashes: take,
    34 server_header_transformation: take,
    35 common_http_protocol_options: into COMMON_HTTP,
    36 request_id_extension: refuse,
    37 always_set_request_id_in_response: take,
    38 local_reply_config: into LOCAL_REPLY,
    39 strip_matching_host_port: take,
    40 stream_error_on_invalid_http_message: ignore "a broken message closes the connection",
    41 request_headers_timeout: take,
    42 strip_any_host_port: take,
    43 path_normalization_options: refuse,
    44 http3_protocol_options: refuse,
    45 path_with_escaped_slashes_action: take,
    46 original_ip_detection_extensions: refuse,
    47 strip_trailing_host_dot: take,
    48 scheme_header_transformation: refuse,
    49 proxy_status_config: refuse,
    50 typed_header_validation_config: refuse,
    51 append_x_forwarded_port: take,
    52 early_header_mutation_extensions: refuse,
    53 add_proxy_protocol_connection_state: refuse,
    54 access_log_flush_interval: ignore "one line at the end",
    55 flush_access_log_on_new_request: ignore "one line at the end",
    56 access_log_options: ignore "one line at the end",
    57 append_local_overload: refuse,
    58 http1_safe_max_connection_duration: refuse,
    59 stream_flush_timeout: refuse,
    60 forward_client_cert_matcher: refuse,
    61 forward_proto_config: refuse,
    62 drain_timeout_jitter: refuse,
});

message!(LOCAL_REPLY, "envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig", {
    1 mappers: each RESPONSE_MAPPER,
    2 body_format: into SUBSTITUTION_FORMAT,
});

message!(RESPONSE_MAPPER, "envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper", {
    1 filter: into FILTER,
    2 status_code: take,
    3 body: into DATA_SOURCE,
    4 body_format_override: into SUBSTITUTION_FORMAT,
    5 headers_to_add: each HEADER_VALUE_OPTION,
});

message!(CERT_DETAILS, "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails", {
    1 subject: take,
    3 cert: refuse,
    4 dns: take,
    5 uri: take,
    6 chain: refuse,
    7 format: zero "elements with semicolons only",
    8 issuer: refuse,
});

message!(INTERNAL_ADDRESSES, "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig", {
    1 unix_sockets: ignore "there are no Unix sockets",
    2 cidr_ranges: each CIDR_RANGE,
});

message!(RDS, "envoy.extensions.filters.network.http_connection_manager.v3.Rds", {
    1 config_source: ignore "always ADS",
    2 route_config_name: take,
});

message!(HCM_UPGRADE, "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig", {
    1 upgrade_type: take,
    2 filters: refuse,
    3 enabled: take,
});

message!(ROUTER, "envoy.extensions.filters.http.router.v3.Router", {
    1 dynamic_stats: ignore "names of statistics are our own",
    2 start_child_span: take,
    3 upstream_log: refuse,
    4 suppress_envoy_headers: take,
    5 strict_check_headers: refuse,
    6 respect_expected_rq_timeout: take,
    7 suppress_grpc_request_failure_code_stats: ignore "names of statistics are our own",
    8 upstream_http_filters: refuse,
    9 upstream_log_options: refuse,
    10 reject_connect_request_early_data: refuse,
});

message!(HTTP_RBAC, "envoy.extensions.filters.http.rbac.v3.RBAC", {
    1 rules: into RBAC,
    2 shadow_rules: into RBAC,
    3 shadow_rules_stat_prefix: ignore "names of statistics are our own",
    4 matcher: refuse,
    5 shadow_matcher: refuse,
    6 rules_stat_prefix: ignore "names of statistics are our own",
    7 track_per_rule_stats: ignore "names of statistics are our own",
});

message!(HTTP_RBAC_PER_ROUTE, "envoy.extensions.filters.http.rbac.v3.RBACPerRoute", {
    2 rbac: into HTTP_RBAC,
});

message!(NETWORK_RBAC, "envoy.extensions.filters.network.rbac.v3.RBAC", {
    1 rules: into RBAC,
    2 shadow_rules: into RBAC,
    3 stat_prefix: ignore "names of statistics are our own",
    4 enforcement_type: ignore "identity cannot change within a connection",
    5 shadow_rules_stat_prefix: ignore "names of statistics are our own",
    6 matcher: refuse,
    7 shadow_matcher: refuse,
    8 delay_deny: refuse,
});

message!(RBAC, "envoy.config.rbac.v3.RBAC", {
    1 action: take,
    2 policies: entries POLICY,
    3 audit_logging_options: refuse,
});

message!(POLICY, "envoy.config.rbac.v3.Policy", {
    1 permissions: each PERMISSION,
    2 principals: each PRINCIPAL,
    3 condition: refuse,
    4 checked_condition: refuse,
    5 cel_config: refuse,
});

message!(PERMISSION, "envoy.config.rbac.v3.Permission", {
    1 and_rules: into PERMISSIONS,
    2 or_rules: into PERMISSIONS,
    3 any: take,
    4 header: into HEADER_MATCHER,
    5 destination_ip: into CIDR_RANGE,
    6 destination_port: take,
    7 metadata: refuse,
    8 not_rule: into PERMISSION,
    9 requested_server_name: into STRING_MATCHER,
    10 url_path: into PATH_MATCHER,
    11 destination_port_range: take,
    12 matcher: refuse,
    13 uri_template: refuse,
    14 sourced_metadata: refuse,
});

message!(PERMISSIONS, "envoy.config.rbac.v3.Permission.Set", {
    1 rules: each PERMISSION,
});

message!(PRINCIPAL, "envoy.config.rbac.v3.Principal", {
    1 and_ids: into PRINCIPALS,
    2 or_ids: into PRINCIPALS,
    3 any: take,
    4 authenticated: into AUTHENTICATED,
    5 source_ip: into CIDR_RANGE,
    6 header: into HEADER_MATCHER,
    7 metadata: refuse,
    8 not_id: into PRINCIPAL,
    9 url_path: into PATH_MATCHER,
    10 direct_remote_ip: into CIDR_RANGE,
    11 remote_ip: into CIDR_RANGE,
    12 filter_state: refuse,
    13 sourced_metadata: refuse,
    14 custom: refuse,
});

message!(PRINCIPALS, "envoy.config.rbac.v3.Principal.Set", {
    1 ids: each PRINCIPAL,
});

message!(AUTHENTICATED, "envoy.config.rbac.v3.Principal.Authenticated", {
    2 principal_name: into STRING_MATCHER,
});
