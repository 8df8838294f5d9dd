//! Addresses, matchers and protocol options that several kinds share.

use super::message;

message!(STRING_MATCHER, "envoy.type.matcher.v3.StringMatcher", {
    1 exact: take,
    2 prefix: take,
    3 suffix: take,
    5 safe_regex: into REGEX_MATCHER,
    6 ignore_case: take,
    7 contains: take,
    8 custom: refuse,
});

message!(REGEX_MATCHER, "envoy.type.matcher.v3.RegexMatcher", {
    1 google_re2: ignore "RE2 semantics",
    2 regex: take,
});

message!(PATH_MATCHER, "envoy.type.matcher.v3.PathMatcher", {
    1 path: into STRING_MATCHER,
});

message!(ADDRESS, "envoy.config.core.v3.Address", {
    1 socket_address: into SOCKET_ADDRESS,
    2 pipe: refuse,
    3 envoy_internal_address: refuse,
});

message!(SOCKET_ADDRESS, "envoy.config.core.v3.SocketAddress", {
    1 protocol: zero "only TCP",
    2 address: take,
    3 port_value: take,
    4 named_port: refuse,
    5 resolver_name: refuse,
    6 ipv4_compat: take,
    7 network_namespace_filepath: refuse,
});

message!(SOCKET_OPTION, "envoy.config.core.v3.SocketOption", {
    1 description: ignore "for readers",
    2 level: take,
    3 name: take,
    4 int_value: take,
    5 buf_value: take,
    6 state: take,
    7 type: zero "TCP sockets only",
    8 ip_version: zero "set on sockets of either family",
});

message!(CIDR_RANGE, "envoy.config.core.v3.CidrRange", {
    1 address_prefix: take,
    2 prefix_len: take,
});

message!(DATA_SOURCE, "envoy.config.core.v3.DataSource", {
    1 filename: refuse,
    2 inline_bytes: take,
    3 inline_string: take,
    4 environment_variable: refuse,
    5 watched_directory: refuse,
});

message!(COMMON_HTTP, "envoy.config.core.v3.HttpProtocolOptions", {
    1 idle_timeout: take,
    2 max_headers_count: take,
    3 max_connection_duration: take,
    4 max_stream_duration: take,
    5 headers_with_underscores_action: take,
    6 max_requests_per_connection: take,
    7 max_response_headers_kb: refuse,
    8 max_connection_duration_jitter: refuse,
});

message!(HTTP1, "envoy.config.core.v3.Http1ProtocolOptions", {
    1 allow_absolute_url: ignore "absolute URLs are always understood",
    2 accept_http_10: take,
    3 default_host_for_http_10: take,
    4 header_key_format: ignore "header names are lower case, as Envoy writes them",
    5 enable_trailers: ignore "trailers pass where TE allows",
    6 allow_chunked_length: refuse,
    7 override_stream_error_on_invalid_http_message: ignore "a broken message closes the connection",
    8 send_fully_qualified_url: refuse,
    9 use_balsa_parser: refuse,
    10 allow_custom_methods: refuse,
    11 ignore_http_11_upgrade: refuse,
});

message!(HTTP2, "envoy.config.core.v3.Http2ProtocolOptions", {
    1 hpack_table_size: ignore "4096",
    2 max_concurrent_streams: take,
    3 initial_stream_window_size: take,
    4 initial_connection_window_size: take,
    5 allow_connect: take,
    6 allow_metadata: refuse,
    7 max_outbound_frames: ignore "bounded by the codec",
    8 max_outbound_control_frames: ignore "bounded by the codec",
    9 max_consecutive_inbound_frames_with_empty_payload: ignore "bounded by the codec",
    10 max_inbound_priority_frames_per_stream: ignore "bounded by the codec",
    11 max_inbound_window_update_frames_per_data_frame_sent: ignore "bounded by the codec",
    12 stream_error_on_invalid_http_messaging: refuse,
    13 custom_settings_parameters: refuse,
    14 override_stream_error_on_invalid_http_message: ignore "a broken message resets its stream",
    15 connection_keepalive: ignore "pings every 30 s",
    16 use_oghttp2_codec: refuse,
    17 max_metadata_size: refuse,
    18 enable_huffman_encoding: refuse,
    19 max_header_field_size_kb: refuse,
    20 disallow_obs_text: refuse,
    21 stream_reset_burst: refuse,
    22 stream_reset_rate: refuse,
});

message!(HEADER_VALUE_OPTION, "envoy.config.core.v3.HeaderValueOption", {
    1 header: take,
    2 append: take,
    3 append_action: take,
    4 keep_empty_value: take,
});

message!(REGEX_SUBSTITUTE, "envoy.type.matcher.v3.RegexMatchAndSubstitute", {
    1 pattern: into REGEX_MATCHER,
    2 substitution: take,
});

message!(SUBSTITUTION_FORMAT, "envoy.config.core.v3.SubstitutionFormatString", {
    1 text_format: take,
    2 json_format: take,
    3 omit_empty_values: take,
    4 content_type: take,
    5 text_format_source: into DATA_SOURCE,
    6 formatters: refuse,
    7 json_format_options: ignore "keys are always in order",
});
