//! Clusters and endpoints.

use super::balance::{
    COMMON_LB, LEAST_REQUEST_CONFIG, LOAD_BALANCING_POLICY, MAGLEV_CONFIG, OUTLIER_DETECTION,
    RING_HASH_CONFIG, ROUND_ROBIN_CONFIG,
};
use super::check::HEALTH_CHECK;
use super::common::{ADDRESS, COMMON_HTTP, HTTP1, HTTP2, SOCKET_ADDRESS};
use super::message;
use super::tls::UPSTREAM_SOCKET;

message!(CLUSTER, "envoy.config.cluster.v3.Cluster", {
    1 name: take,
    2 type: take,
    3 eds_cluster_config: into EDS_CONFIG,
    4 connect_timeout: take,
    5 per_connection_buffer_limit_bytes: ignore "copy buffers are bounded by the proxy",
    6 lb_policy: take,
    8 health_checks: each HEALTH_CHECK,
    9 max_requests_per_connection: take,
    10 circuit_breakers: into CIRCUIT_BREAKERS,
    13 http_protocol_options: into HTTP1,
    14 http2_protocol_options: into HTTP2,
    16 dns_refresh_rate: take,
    17 dns_lookup_family: take,
    18 dns_resolvers: refuse,
    19 outlier_detection: into OUTLIER_DETECTION,
    20 cleanup_interval: take,
    21 upstream_bind_config: into BIND_CONFIG,
    22 lb_subset_config: into LB_SUBSET,
    23 ring_hash_lb_config: into RING_HASH_CONFIG,
    24 transport_socket: into UPSTREAM_SOCKET,
    25 metadata: into CLUSTER_METADATA,
    26 protocol_selection: take,
    27 common_lb_config: into COMMON_LB,
    28 alt_stat_name: ignore "names of statistics are our own",
    29 common_http_protocol_options: into COMMON_HTTP,
    30 upstream_connection_options: into CONNECTION_OPTIONS,
    31 close_connections_on_host_health_failure: take,
    32 ignore_health_on_host_removal: take,
    33 load_assignment: into CLUSTER_LOAD_ASSIGNMENT,
    34 original_dst_lb_config: into ORIGINAL_DST_LB,
    36 typed_extension_protocol_options: map UPSTREAM_HTTP,
    37 least_request_lb_config: into LEAST_REQUEST_CONFIG,
    38 cluster_type: refuse,
    39 respect_dns_ttl: take,
    40 filters: refuse,
    41 load_balancing_policy: into LOAD_BALANCING_POLICY,
    42 lrs_server: refuse,
    43 transport_socket_matches: refuse,
    44 dns_failure_refresh_rate: into REFRESH_RATE,
    45 use_tcp_for_dns_lookups: refuse,
    46 upstream_http_protocol_options: refuse,
    47 track_timeout_budgets: refuse,
    48 upstream_config: refuse,
    49 track_cluster_stats: refuse,
    50 preconnect_policy: refuse,
    51 connection_pool_per_downstream_connection: refuse,
    52 maglev_lb_config: into MAGLEV_CONFIG,
    53 dns_resolution_config: refuse,
    54 wait_for_warm_on_init: ignore "always warmed",
    55 typed_dns_resolver_config: refuse,
    56 round_robin_lb_config: into ROUND_ROBIN_CONFIG,
    57 lrs_report_endpoint_metrics: refuse,
    58 dns_jitter: take,
    59 transport_socket_matcher: refuse,
    60 per_connection_buffer_high_watermark_timeout: refuse,
    61 stats_matcher: refuse,
    62 queuing_policies: refuse,
});

message!(LB_SUBSET, "envoy.config.cluster.v3.Cluster.LbSubsetConfig", {
    1 fallback_policy: take,
    2 default_subset: take,
    3 subset_selectors: each LB_SUBSET_SELECTOR,
    4 locality_weight_aware: refuse,
    5 scale_locality_weight: refuse,
    6 panic_mode_any: take,
    7 list_as_any: refuse,
    8 metadata_fallback_policy: zero "a request has one set of labels",
});

message!(LB_SUBSET_SELECTOR, "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector", {
    1 keys: take,
    2 fallback_policy: take,
    3 fallback_keys_subset: take,
    4 single_host_per_subset: refuse,
});

message!(CLUSTER_METADATA, "envoy.config.core.v3.Metadata (of a cluster: osm.circuit_breaker)", {
    1 filter_metadata: take,
    2 typed_filter_metadata: ignore "nothing asks for it",
});

message!(EDS_CONFIG, "envoy.config.cluster.v3.Cluster.EdsClusterConfig", {
    1 eds_config: ignore "always ADS",
    2 service_name: take,
});

message!(BIND_CONFIG, "envoy.config.core.v3.BindConfig", {
    1 source_address: into SOCKET_ADDRESS,
    2 freebind: zero "not supported",
    3 socket_options: refuse,
    4 additional_source_addresses: refuse,
    5 extra_source_addresses: refuse,
    6 local_address_selector: refuse,
    7 no_port_allocation: refuse,
});

message!(CONNECTION_OPTIONS, "envoy.config.cluster.v3.UpstreamConnectionOptions", {
    1 tcp_keepalive: into TCP_KEEPALIVE,
    2 set_local_interface_name_on_upstream_connections: ignore "nothing asks for it",
    3 happy_eyeballs_config: ignore "an endpoint has one address",
});

message!(TCP_KEEPALIVE, "envoy.config.core.v3.TcpKeepalive", {
    1 keepalive_probes: take,
    2 keepalive_time: take,
    3 keepalive_interval: take,
});

message!(ORIGINAL_DST_LB, "envoy.config.cluster.v3.Cluster.OriginalDstLbConfig", {
    1 use_http_header: take,
    2 http_header_name: take,
    3 upstream_port_override: take,
    4 metadata_key: refuse,
});

message!(CIRCUIT_BREAKERS, "envoy.config.cluster.v3.CircuitBreakers", {
    1 thresholds: each THRESHOLDS,
    2 per_host_thresholds: each PER_HOST_THRESHOLDS,
});

message!(THRESHOLDS, "envoy.config.cluster.v3.CircuitBreakers.Thresholds", {
    1 priority: take,
    2 max_connections: take,
    3 max_pending_requests: take,
    4 max_requests: take,
    5 max_retries: take,
    6 track_remaining: take,
    7 max_connection_pools: ignore "one pool per worker and endpoint",
    8 retry_budget: into RETRY_BUDGET,
});

message!(PER_HOST_THRESHOLDS, "envoy.config.cluster.v3.CircuitBreakers.Thresholds (per host)", {
    1 priority: zero "limits per endpoint are of default priority",
    2 max_connections: take,
    3 max_pending_requests: ignore "per endpoint Envoy knows connections only",
    4 max_requests: ignore "per endpoint Envoy knows connections only",
    5 max_retries: ignore "per endpoint Envoy knows connections only",
    6 track_remaining: ignore "per endpoint Envoy knows connections only",
    7 max_connection_pools: ignore "per endpoint Envoy knows connections only",
    8 retry_budget: ignore "per endpoint Envoy knows connections only",
});

message!(RETRY_BUDGET, "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget", {
    1 budget_percent: take,
    2 min_retry_concurrency: take,
    3 budget_interval: refuse,
});

message!(REFRESH_RATE, "envoy.config.cluster.v3.Cluster.RefreshRate", {
    1 base_interval: take,
    2 max_interval: take,
});

message!(ASSIGNMENT_POLICY, "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy", {
    2 drop_overloads: each DROP_OVERLOAD,
    3 overprovisioning_factor: take,
    4 endpoint_stale_after: ignore "the last good endpoints stay",
    6 weighted_priority_health: take,
});

message!(DROP_OVERLOAD, "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload", {
    1 category: take,
    2 drop_percentage: take,
});

message!(HEALTH_CHECK_CONFIG, "envoy.config.endpoint.v3.Endpoint.HealthCheckConfig", {
    1 port_value: take,
    2 hostname: take,
    3 address: into ADDRESS,
    4 disable_active_health_check: take,
});

message!(CLUSTER_LOAD_ASSIGNMENT, "envoy.config.endpoint.v3.ClusterLoadAssignment", {
    1 cluster_name: take,
    2 endpoints: each LOCALITY_ENDPOINTS,
    4 policy: into ASSIGNMENT_POLICY,
    5 named_endpoints: refuse,
});

message!(LOCALITY_ENDPOINTS, "envoy.config.endpoint.v3.LocalityLbEndpoints", {
    1 locality: take,
    2 lb_endpoints: each LB_ENDPOINT,
    3 load_balancing_weight: take,
    5 priority: take,
    6 proximity: ignore "unused",
    7 load_balancer_endpoints: refuse,
    8 leds_cluster_locality_config: refuse,
    9 metadata: ignore "kept as provenance",
});

message!(LB_ENDPOINT, "envoy.config.endpoint.v3.LbEndpoint", {
    1 endpoint: into ENDPOINT,
    2 health_status: take,
    3 metadata: take,
    4 load_balancing_weight: take,
    5 endpoint_name: refuse,
});

message!(ENDPOINT, "envoy.config.endpoint.v3.Endpoint", {
    1 address: into ADDRESS,
    2 health_check_config: into HEALTH_CHECK_CONFIG,
    3 hostname: take,
    4 additional_addresses: refuse,
    5 observability_name: refuse,
});

message!(UPSTREAM_HTTP, "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", {
    1 common_http_protocol_options: into COMMON_HTTP,
    2 upstream_http_protocol_options: refuse,
    3 explicit_http_config: into EXPLICIT_HTTP,
    4 use_downstream_protocol_config: into USE_DOWNSTREAM,
    5 auto_config: refuse,
    6 http_filters: refuse,
    7 header_validation_config: refuse,
    8 outlier_detection: refuse,
    9 request_mirror_policies: refuse,
    10 hash_policy: refuse,
    11 retry_policy: refuse,
});

message!(EXPLICIT_HTTP, "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig", {
    1 http_protocol_options: into HTTP1,
    2 http2_protocol_options: into HTTP2,
    3 http3_protocol_options: refuse,
});

message!(USE_DOWNSTREAM, "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig", {
    1 http_protocol_options: into HTTP1,
    2 http2_protocol_options: into HTTP2,
    3 http3_protocol_options: refuse,
});
