//! The bootstrap file.

use super::cluster::CLUSTER;
use super::common::ADDRESS;
use super::listener::LISTENER;
use super::message;
use super::overload::OVERLOAD_MANAGER;
use super::tls::SECRET;
use super::tracing::BOOTSTRAP_TRACING;

message!(BOOTSTRAP, "envoy.config.bootstrap.v3.Bootstrap", {
    1 node: into NODE,
    2 static_resources: into STATIC_RESOURCES,
    3 dynamic_resources: into DYNAMIC_RESOURCES,
    4 cluster_manager: ignore "no cluster is the local one",
    5 flags_path: ignore "no runtime files",
    6 stats_sinks: refuse,
    7 stats_flush_interval: ignore "statistics are read, not flushed",
    8 watchdog: ignore "no watchdog",
    9 tracing: into BOOTSTRAP_TRACING,
    12 admin: into ADMIN,
    13 stats_config: ignore "all default tags are extracted, all statistics kept",
    14 hds_config: refuse,
    15 overload_manager: into OVERLOAD_MANAGER,
    16 enable_dispatcher_stats: ignore "no such statistics",
    17 layered_runtime: ignore "no runtime keys",
    18 header_prefix: zero "headers are named x-envoy-",
    19 stats_server_version_override: ignore "no such statistic",
    20 use_tcp_for_dns_lookups: ignore "truncated answers are asked for again over TCP",
    21 bootstrap_extensions: refuse,
    22 config_sources: refuse,
    23 default_config_source: refuse,
    24 default_socket_interface: refuse,
    25 certificate_provider_instances: refuse,
    26 node_context_params: refuse,
    27 watchdogs: ignore "no watchdog",
    28 fatal_actions: refuse,
    29 stats_flush_on_admin: ignore "statistics are read, not flushed",
    30 dns_resolution_config: ignore "the resolver of /etc/resolv.conf",
    31 typed_dns_resolver_config: ignore "the resolver of /etc/resolv.conf",
    32 inline_headers: ignore "an optimisation",
    33 perf_tracing_file_path: ignore "no such file",
    34 default_regex_engine: ignore "RE2's syntax, linear time",
    35 xds_delegate_extension: refuse,
    36 xds_config_tracker_extension: refuse,
    37 listener_manager: ignore "there is one",
    38 application_log_config: ignore "JSON lines on standard error",
    39 deferred_stat_options: ignore "an optimisation",
    40 grpc_async_client_manager_config: ignore "an optimisation",
    41 memory_allocator_manager: ignore "an optimisation",
    42 stats_eviction_interval: ignore "statistics are kept",
    43 enable_worker_cpu_affinity: ignore "an optimisation",
});

message!(NODE, "envoy.config.core.v3.Node", {
    1 id: take,
    2 cluster: take,
    3 metadata: take,
    4 locality: take,
    6 user_agent_name: ignore "osm-proxy says who it is",
    7 user_agent_version: ignore "osm-proxy says who it is",
    8 user_agent_build_version: ignore "osm-proxy says who it is",
    9 extensions: ignore "osm-proxy says who it is",
    10 client_features: ignore "osm-proxy says who it is",
    11 listening_addresses: ignore "sent as given",
    12 dynamic_parameters: ignore "sent as given",
});

message!(STATIC_RESOURCES, "envoy.config.bootstrap.v3.Bootstrap.StaticResources", {
    1 listeners: each LISTENER,
    2 clusters: each CLUSTER,
    3 secrets: each SECRET,
});

message!(DYNAMIC_RESOURCES, "envoy.config.bootstrap.v3.Bootstrap.DynamicResources", {
    1 lds_config: into CONFIG_SOURCE,
    2 cds_config: into CONFIG_SOURCE,
    3 ads_config: into API_CONFIG_SOURCE,
    5 lds_resources_locator: refuse,
    6 cds_resources_locator: refuse,
});

message!(CONFIG_SOURCE, "envoy.config.core.v3.ConfigSource", {
    1 path: refuse,
    2 api_config_source: refuse,
    3 ads: take,
    4 initial_fetch_timeout: ignore "15 s, Envoy's default",
    5 self: refuse,
    6 resource_api_version: ignore "always v3",
    7 authorities: refuse,
    8 path_config_source: refuse,
});

message!(API_CONFIG_SOURCE, "envoy.config.core.v3.ApiConfigSource", {
    1 api_type: take,
    2 cluster_names: refuse,
    3 refresh_delay: ignore "streams are not polled",
    4 grpc_services: each GRPC_SERVICE,
    5 request_timeout: ignore "streams are not polled",
    6 rate_limit_settings: ignore "requests answer responses",
    7 set_node_on_first_message_only: ignore "the node is always sent once per stream",
    8 transport_api_version: take,
    9 config_validators: refuse,
});

message!(GRPC_SERVICE, "envoy.config.core.v3.GrpcService", {
    1 envoy_grpc: into ENVOY_GRPC,
    2 google_grpc: refuse,
    3 timeout: ignore "a stream has none",
    5 initial_metadata: refuse,
    6 retry_policy: ignore "reconnected with jittered back-off",
});

message!(ENVOY_GRPC, "envoy.config.core.v3.GrpcService.EnvoyGrpc", {
    1 cluster_name: take,
    2 authority: take,
    3 retry_policy: ignore "reconnected with jittered back-off",
    4 max_receive_message_length: ignore "64 MiB",
    5 skip_envoy_headers: ignore "none are sent",
});

message!(ADMIN, "envoy.config.bootstrap.v3.Admin", {
    1 access_log_path: ignore "administration is not logged",
    2 profile_path: ignore "no profiler",
    3 address: into ADDRESS,
    4 socket_options: refuse,
    5 access_log: ignore "administration is not logged",
    6 ignore_global_conn_limit: ignore "64 connections of its own",
    7 allow_paths: refuse,
});
