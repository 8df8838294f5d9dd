//! Load balancing policies and outlier detection.

use super::message;

message!(OUTLIER_DETECTION, "envoy.config.cluster.v3.OutlierDetection", {
    1 consecutive_5xx: take,
    2 interval: take,
    3 base_ejection_time: take,
    4 max_ejection_percent: take,
    5 enforcing_consecutive_5xx: take,
    6 enforcing_success_rate: take,
    7 success_rate_minimum_hosts: take,
    8 success_rate_request_volume: take,
    9 success_rate_stdev_factor: take,
    10 consecutive_gateway_failure: take,
    11 enforcing_consecutive_gateway_failure: take,
    12 split_external_local_origin_errors: take,
    13 consecutive_local_origin_failure: take,
    14 enforcing_consecutive_local_origin_failure: take,
    15 enforcing_local_origin_success_rate: take,
    16 failure_percentage_threshold: take,
    17 enforcing_failure_percentage: take,
    18 enforcing_failure_percentage_local_origin: take,
    19 failure_percentage_minimum_hosts: take,
    20 failure_percentage_request_volume: take,
    21 max_ejection_time: take,
    22 max_ejection_time_jitter: take,
    23 successful_active_health_check_uneject_host: take,
    24 monitors: refuse,
    25 always_eject_one_host: take,
    26 detect_degraded_hosts: zero "degraded hosts are those the control plane names",
});

message!(ROUND_ROBIN_CONFIG, "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig", {
    1 slow_start_config: refuse,
});

message!(LEAST_REQUEST_CONFIG, "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig", {
    1 choice_count: take,
    2 active_request_bias: refuse,
    3 slow_start_config: refuse,
});

message!(RING_HASH_CONFIG, "envoy.config.cluster.v3.Cluster.RingHashLbConfig", {
    1 minimum_ring_size: take,
    3 hash_function: take,
    4 maximum_ring_size: take,
});

message!(MAGLEV_CONFIG, "envoy.config.cluster.v3.Cluster.MaglevLbConfig", {
    1 table_size: take,
});

message!(COMMON_LB, "envoy.config.cluster.v3.Cluster.CommonLbConfig", {
    1 healthy_panic_threshold: take,
    2 zone_aware_lb_config: into ZONE_AWARE,
    3 locality_weighted_lb_config: take,
    4 update_merge_window: ignore "updates are applied at once",
    5 ignore_new_hosts_until_first_hc: take,
    6 close_connections_on_host_set_change: zero "connections live on while their endpoint does",
    7 consistent_hashing_lb_config: into CONSISTENT_HASHING,
    8 override_host_status: ignore "no host is overridden",
});

message!(ZONE_AWARE, "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig", {
    1 routing_enabled: ignore "no zone of its own: as an Envoy without local_cluster_name",
    2 min_cluster_size: ignore "no zone of its own: as an Envoy without local_cluster_name",
    3 fail_traffic_on_panic: take,
    4 force_locality_direct_routing: ignore "no zone of its own: as an Envoy without local_cluster_name",
    5 force_local_zone: ignore "no zone of its own: as an Envoy without local_cluster_name",
});

message!(CONSISTENT_HASHING, "envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig", {
    1 use_hostname_for_hashing: take,
    2 hash_balance_factor: refuse,
});

message!(LOAD_BALANCING_POLICY, "envoy.config.cluster.v3.LoadBalancingPolicy", {
    1 policies: each LISTED_POLICY,
});

message!(LISTED_POLICY, "envoy.config.cluster.v3.LoadBalancingPolicy.Policy", {
    4 typed_extension_config: into POLICY_EXTENSION,
});

message!(POLICY_EXTENSION, "envoy.config.core.v3.TypedExtensionConfig (load balancing)", {
    1 name: ignore "the type decides",
    2 typed_config: any ROUND_ROBIN LEAST_REQUEST RANDOM RING_HASH MAGLEV,
});

message!(ROUND_ROBIN, "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin", {
    1 slow_start_config: refuse,
    2 locality_lb_config: into LOCALITY_LB,
});

message!(LEAST_REQUEST, "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest", {
    1 choice_count: take,
    2 active_request_bias: refuse,
    3 slow_start_config: refuse,
    4 locality_lb_config: into LOCALITY_LB,
    5 enable_full_scan: take,
    6 selection_method: take,
});

message!(RANDOM, "envoy.extensions.load_balancing_policies.random.v3.Random", {
    1 locality_lb_config: into LOCALITY_LB,
});

message!(RING_HASH, "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash", {
    1 hash_function: take,
    2 minimum_ring_size: take,
    3 maximum_ring_size: take,
    4 use_hostname_for_hashing: take,
    5 hash_balance_factor: refuse,
    6 consistent_hashing_lb_config: into LISTED_CONSISTENT_HASHING,
    7 locality_weighted_lb_config: take,
});

message!(MAGLEV, "envoy.extensions.load_balancing_policies.maglev.v3.Maglev", {
    1 table_size: take,
    2 consistent_hashing_lb_config: into LISTED_CONSISTENT_HASHING,
    3 locality_weighted_lb_config: take,
});

message!(LISTED_CONSISTENT_HASHING, "envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig", {
    1 use_hostname_for_hashing: take,
    2 hash_balance_factor: refuse,
    3 hash_policy: refuse,
});

message!(LOCALITY_LB, "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig", {
    1 zone_aware_lb_config: into LISTED_ZONE_AWARE,
    2 locality_weighted_lb_config: take,
});

message!(LISTED_ZONE_AWARE, "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig", {
    1 routing_enabled: ignore "no zone of its own: as an Envoy without local_cluster_name",
    2 min_cluster_size: ignore "no zone of its own: as an Envoy without local_cluster_name",
    3 fail_traffic_on_panic: take,
    4 force_locality_direct_routing: ignore "no zone of its own: as an Envoy without local_cluster_name",
    5 force_local_zone: ignore "no zone of its own: as an Envoy without local_cluster_name",
    6 locality_basis: ignore "no zone of its own: as an Envoy without local_cluster_name",
});
