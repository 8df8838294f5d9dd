//! Active health checks.

use super::common::HEADER_VALUE_OPTION;
use super::message;

message!(HEALTH_CHECK, "envoy.config.core.v3.HealthCheck", {
    1 timeout: take,
    2 interval: take,
    3 interval_jitter: take,
    4 unhealthy_threshold: take,
    5 healthy_threshold: take,
    6 alt_port: take,
    7 reuse_connection: take,
    8 http_health_check: into HTTP_CHECK,
    9 tcp_health_check: into TCP_CHECK,
    11 grpc_health_check: into GRPC_CHECK,
    12 no_traffic_interval: take,
    13 custom_health_check: refuse,
    14 unhealthy_interval: take,
    15 unhealthy_edge_interval: take,
    16 healthy_edge_interval: take,
    17 event_log_path: ignore "changes of health are in the proxy's log",
    18 interval_jitter_percent: take,
    19 always_log_health_check_failures: ignore "changes of health are in the proxy's log",
    20 initial_jitter: take,
    21 tls_options: refuse,
    22 event_service: ignore "changes of health are in the proxy's log",
    23 transport_socket_match_criteria: refuse,
    24 no_traffic_healthy_interval: take,
    25 event_logger: ignore "changes of health are in the proxy's log",
    26 always_log_health_check_success: ignore "changes of health are in the proxy's log",
});

message!(HTTP_CHECK, "envoy.config.core.v3.HealthCheck.HttpHealthCheck", {
    1 host: take,
    2 path: take,
    3 send: refuse,
    4 receive: refuse,
    5 service_name: refuse,
    6 request_headers_to_add: each HEADER_VALUE_OPTION,
    8 request_headers_to_remove: take,
    9 expected_statuses: take,
    10 codec_client_type: take,
    11 service_name_matcher: refuse,
    12 retriable_statuses: take,
    13 method: take,
    14 response_buffer_size: ignore "the body is not looked at",
});

message!(TCP_CHECK, "envoy.config.core.v3.HealthCheck.TcpHealthCheck", {
    1 send: take,
    2 receive: take,
    3 proxy_protocol_config: refuse,
});

message!(GRPC_CHECK, "envoy.config.core.v3.HealthCheck.GrpcHealthCheck", {
    1 service_name: take,
    2 authority: take,
    3 initial_metadata: each HEADER_VALUE_OPTION,
});
