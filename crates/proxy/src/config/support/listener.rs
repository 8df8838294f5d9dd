//! Listeners, filter chains and the network filters without HTTP.

use super::access::ACCESS_LOG;
use super::common::{ADDRESS, CIDR_RANGE, SOCKET_OPTION};
use super::ext_authz::NETWORK_EXT_AUTHZ;
use super::http::{HTTP_CONNECTION_MANAGER, NETWORK_RBAC};
use super::message;
use super::rate_limit::{CONNECTION_LIMIT, NETWORK_LOCAL_RATE_LIMIT, NETWORK_RATE_LIMIT};
use super::tls::DOWNSTREAM_SOCKET;

message!(LISTENER, "envoy.config.listener.v3.Listener", {
    1 name: take,
    2 address: into ADDRESS,
    3 filter_chains: each FILTER_CHAIN,
    4 use_original_dst: take,
    5 per_connection_buffer_limit_bytes: ignore "copy buffers are bounded by the proxy",
    6 metadata: ignore "kept as provenance",
    7 deprecated_v1: refuse,
    8 drain_type: ignore "a changed chain always drains",
    9 listener_filters: each LISTENER_FILTER,
    10 transparent: take,
    11 freebind: take,
    12 tcp_fast_open_queue_length: ignore "an optimisation",
    13 socket_options: each SOCKET_OPTION,
    15 listener_filters_timeout: take,
    16 traffic_direction: take,
    17 continue_on_listener_filters_timeout: take,
    18 udp_listener_config: refuse,
    19 api_listener: refuse,
    20 connection_balance_config: ignore "workers balance by themselves",
    21 reuse_port: ignore "one acceptor",
    22 access_log: each ACCESS_LOG,
    24 tcp_backlog_size: take,
    25 default_filter_chain: into FILTER_CHAIN,
    26 bind_to_port: take,
    27 internal_listener: refuse,
    28 stat_prefix: take,
    29 enable_reuse_port: ignore "one acceptor",
    30 enable_mptcp: refuse,
    31 ignore_global_conn_limit: take,
    32 filter_chain_matcher: refuse,
    33 additional_addresses: each ADDITIONAL_ADDRESS,
    34 max_connections_to_accept_per_socket_event: ignore "an optimisation",
    35 bypass_overload_manager: refuse,
    36 fcds_config: refuse,
    37 tcp_keepalive: take,
    38 per_connection_buffer_high_watermark_timeout: refuse,
    39 stats_matcher: refuse,
});

message!(ADDITIONAL_ADDRESS, "envoy.config.listener.v3.AdditionalAddress", {
    1 address: into ADDRESS,
    2 socket_options: into SOCKET_OPTIONS_OVERRIDE,
    3 tcp_keepalive: refuse,
});

message!(SOCKET_OPTIONS_OVERRIDE, "envoy.config.core.v3.SocketOptionsOverride", {
    1 socket_options: each SOCKET_OPTION,
});

message!(PROXY_PROTOCOL, "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", {
    1 rules: ignore "TLVs are checked, and nothing reads them",
    2 allow_requests_without_proxy_protocol: take,
    3 pass_through_tlvs: ignore "TLVs are checked, and nothing reads them",
    4 disallowed_versions: take,
    5 stat_prefix: ignore "no statistics of its own",
    6 tlv_location: ignore "TLVs are checked, and nothing reads them",
});

message!(FILTER_CHAIN, "envoy.config.listener.v3.FilterChain", {
    1 filter_chain_match: into FILTER_CHAIN_MATCH,
    3 filters: each FILTER,
    4 use_proxy_proto: take,
    5 metadata: ignore "kept as provenance",
    6 transport_socket: into DOWNSTREAM_SOCKET,
    7 name: take,
    9 transport_socket_connect_timeout: take,
});

message!(FILTER_CHAIN_MATCH, "envoy.config.listener.v3.FilterChainMatch", {
    3 prefix_ranges: each CIDR_RANGE,
    4 address_suffix: refuse,
    5 suffix_len: refuse,
    6 source_prefix_ranges: each CIDR_RANGE,
    7 source_ports: take,
    8 destination_port: take,
    9 transport_protocol: take,
    10 application_protocols: take,
    11 server_names: take,
    12 source_type: take,
    13 direct_source_prefix_ranges: each CIDR_RANGE,
});

message!(FILTER, "envoy.config.listener.v3.Filter", {
    1 name: take,
    4 typed_config: any NETWORK_RBAC NETWORK_LOCAL_RATE_LIMIT NETWORK_RATE_LIMIT NETWORK_EXT_AUTHZ CONNECTION_LIMIT TCP_PROXY HTTP_CONNECTION_MANAGER,
    5 config_discovery: refuse,
});

message!(LISTENER_FILTER, "envoy.config.listener.v3.ListenerFilter", {
    1 name: take,
    3 typed_config: any ORIGINAL_DST PROXY_PROTOCOL TLS_INSPECTOR HTTP_INSPECTOR,
    4 filter_disabled: into PREDICATE,
    5 config_discovery: refuse,
});

message!(PREDICATE, "envoy.config.listener.v3.ListenerFilterChainMatchPredicate", {
    1 or_match: into PREDICATES,
    2 and_match: into PREDICATES,
    3 not_match: into PREDICATE,
    4 any_match: take,
    5 destination_port_range: take,
});

message!(PREDICATES, "envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet", {
    1 rules: each PREDICATE,
});

message!(
    ORIGINAL_DST,
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    {}
);

message!(TLS_INSPECTOR, "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", {
    1 enable_ja3_fingerprinting: zero "fingerprints are not computed",
    2 initial_read_buffer_size: ignore "an optimisation",
    3 enable_ja4_fingerprinting: zero "fingerprints are not computed",
    4 close_connection_on_client_hello_parsing_errors: zero "a broken ClientHello is raw data",
    5 max_client_hello_size: ignore "bounded at 16 KiB",
});

message!(
    HTTP_INSPECTOR,
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    {}
);

message!(TCP_PROXY, "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", {
    1 stat_prefix: take,
    2 cluster: take,
    3 downstream_idle_timeout: refuse,
    4 upstream_idle_timeout: refuse,
    5 access_log: each ACCESS_LOG,
    7 max_connect_attempts: take,
    8 idle_timeout: take,
    9 metadata_match: refuse,
    10 weighted_clusters: into TCP_WEIGHTED,
    11 hash_policy: each TCP_HASH_POLICY,
    12 tunneling_config: refuse,
    13 max_downstream_connection_duration: take,
    14 on_demand: refuse,
    15 access_log_flush_interval: ignore "one line at the end",
    16 flush_access_log_on_connected: ignore "one line at the end",
    17 access_log_options: ignore "one line at the end",
    18 backoff_options: refuse,
    19 proxy_protocol_tlvs: refuse,
    20 max_downstream_connection_duration_jitter_percentage: refuse,
    21 upstream_connect_mode: refuse,
    22 max_early_data_bytes: refuse,
    23 proxy_protocol_tlv_merge_policy: refuse,
    24 check_drain_close: refuse,
});

message!(TCP_HASH_POLICY, "envoy.type.v3.HashPolicy", {
    1 source_ip: take,
    2 filter_state: refuse,
});

message!(TCP_WEIGHTED, "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster", {
    1 clusters: each TCP_CLUSTER_WEIGHT,
});

message!(TCP_CLUSTER_WEIGHT, "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight", {
    1 name: take,
    2 weight: take,
    3 metadata_match: refuse,
});
