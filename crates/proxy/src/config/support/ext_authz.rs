//! External authorization, of requests and of connections.

use super::common::STRING_MATCHER;
use super::filters::{GRPC_SERVICE, RUNTIME_FLAG, RUNTIME_FRACTION};
use super::message;

message!(EXT_AUTHZ, "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", {
    1 grpc_service: into GRPC_SERVICE,
    2 failure_mode_allow: take,
    3 http_service: into AUTHZ_HTTP_SERVICE,
    5 with_request_body: into BUFFER_SETTINGS,
    6 clear_route_cache: take,
    7 status_on_error: take,
    8 metadata_context_namespaces: ignore "no dynamic metadata",
    9 filter_enabled: into RUNTIME_FRACTION,
    10 include_peer_certificate: take,
    11 deny_at_disable: into RUNTIME_FLAG,
    12 transport_api_version: take,
    13 stat_prefix: take,
    14 filter_enabled_metadata: refuse,
    15 bootstrap_metadata_labels_key: refuse,
    16 typed_metadata_context_namespaces: ignore "no dynamic metadata",
    17 allowed_headers: into LIST_STRING_MATCHER,
    18 include_tls_session: take,
    19 failure_mode_allow_header_add: take,
    20 charge_cluster_response_stats: ignore "refusals are counted by their filter",
    21 route_metadata_context_namespaces: refuse,
    22 route_typed_metadata_context_namespaces: refuse,
    23 encode_raw_headers: take,
    24 validate_mutations: take,
    25 disallowed_headers: into LIST_STRING_MATCHER,
    26 decoder_header_mutation_rules: refuse,
    27 enable_dynamic_metadata_ingestion: ignore "no dynamic metadata",
    28 filter_metadata: ignore "no filter state",
    29 emit_filter_state_stats: ignore "no filter state",
    30 max_denied_response_body_bytes: take,
    31 enforce_response_header_limits: ignore "answers of services are bounded",
    32 shadow_mode: refuse,
    33 emit_client_span: ignore "calls have no spans",
});

message!(EXT_AUTHZ_PER_ROUTE, "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", {
    1 disabled: take,
    2 check_settings: into CHECK_SETTINGS,
});

message!(CHECK_SETTINGS, "envoy.extensions.filters.http.ext_authz.v3.CheckSettings", {
    1 context_extensions: take,
    2 disable_request_body_buffering: take,
    3 with_request_body: into BUFFER_SETTINGS,
    4 grpc_service: into GRPC_SERVICE,
    5 http_service: into AUTHZ_HTTP_SERVICE,
    6 emit_client_span: ignore "calls have no spans",
});

message!(BUFFER_SETTINGS, "envoy.extensions.filters.http.ext_authz.v3.BufferSettings", {
    1 max_request_bytes: take,
    2 allow_partial_message: take,
    3 pack_as_bytes: take,
});

message!(AUTHZ_HTTP_SERVICE, "envoy.extensions.filters.http.ext_authz.v3.HttpService", {
    1 server_uri: into HTTP_URI,
    2 path_prefix: take,
    7 authorization_request: into AUTHORIZATION_REQUEST,
    8 authorization_response: into AUTHORIZATION_RESPONSE,
    9 retry_policy: refuse,
    10 path_override: take,
});

message!(HTTP_URI, "envoy.config.core.v3.HttpUri", {
    1 uri: ignore "the cluster says where",
    2 cluster: take,
    3 timeout: take,
});

message!(AUTHORIZATION_REQUEST, "envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest", {
    1 allowed_headers: into LIST_STRING_MATCHER,
    2 headers_to_add: take,
});

message!(AUTHORIZATION_RESPONSE, "envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse", {
    1 allowed_upstream_headers: into LIST_STRING_MATCHER,
    2 allowed_client_headers: into LIST_STRING_MATCHER,
    3 allowed_upstream_headers_to_append: into LIST_STRING_MATCHER,
    4 allowed_client_headers_on_success: into LIST_STRING_MATCHER,
    5 dynamic_metadata_from_headers: ignore "no dynamic metadata",
});

message!(LIST_STRING_MATCHER, "envoy.type.matcher.v3.ListStringMatcher", {
    1 patterns: each STRING_MATCHER,
});

message!(NETWORK_EXT_AUTHZ, "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz", {
    1 stat_prefix: take,
    2 grpc_service: into GRPC_SERVICE,
    3 failure_mode_allow: take,
    4 include_peer_certificate: take,
    5 transport_api_version: take,
    6 filter_enabled_metadata: refuse,
    7 bootstrap_metadata_labels_key: refuse,
    8 include_tls_session: take,
    9 send_tls_alert_on_denial: zero "the connection is closed without an alert",
    10 metadata_context_namespaces: ignore "no dynamic metadata",
    11 typed_metadata_context_namespaces: ignore "no dynamic metadata",
    12 shadow_mode: refuse,
});
