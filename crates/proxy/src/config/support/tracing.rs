//! Tracing.

use super::common::HEADER_VALUE_OPTION;
use super::filters::GRPC_SERVICE;
use super::message;
use super::route::FRACTIONAL_PERCENT;

message!(TRACING, "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing", {
    3 client_sampling: take,
    4 random_sampling: take,
    5 overall_sampling: take,
    6 verbose: take,
    7 max_path_tag_length: take,
    8 custom_tags: each CUSTOM_TAG,
    9 provider: into PROVIDER,
    10 spawn_upstream_span: take,
    11 operation: take,
    12 upstream_operation: take,
});

message!(ROUTE_TRACING, "envoy.config.route.v3.Tracing", {
    1 client_sampling: into FRACTIONAL_PERCENT,
    2 random_sampling: into FRACTIONAL_PERCENT,
    3 overall_sampling: into FRACTIONAL_PERCENT,
    4 custom_tags: each CUSTOM_TAG,
    5 operation: take,
    6 upstream_operation: take,
});

message!(DECORATOR, "envoy.config.route.v3.Decorator", {
    1 operation: take,
    2 propagate: take,
});

message!(CUSTOM_TAG, "envoy.type.tracing.v3.CustomTag", {
    1 tag: take,
    2 literal: take,
    3 environment: take,
    4 request_header: take,
    5 metadata: refuse,
    6 value: take,
});

message!(BOOTSTRAP_TRACING, "envoy.config.trace.v3.Tracing", {
    1 http: into PROVIDER,
});

message!(PROVIDER, "envoy.config.trace.v3.Tracing.Http", {
    1 name: take,
    3 typed_config: any ZIPKIN OPEN_TELEMETRY,
});

message!(ZIPKIN, "envoy.config.trace.v3.ZipkinConfig", {
    1 collector_cluster: take,
    2 collector_endpoint: take,
    3 trace_id_128bit: take,
    4 shared_span_context: take,
    5 collector_endpoint_version: take,
    6 collector_hostname: take,
    7 split_spans_for_request: take,
    8 trace_context_option: take,
    9 collector_service: into HTTP_SERVICE,
    10 timestamp_trace_ids: take,
});

message!(OPEN_TELEMETRY, "envoy.config.trace.v3.OpenTelemetryConfig", {
    1 grpc_service: into GRPC_SERVICE,
    2 service_name: take,
    3 http_service: into HTTP_SERVICE,
    4 resource_detectors: refuse,
    5 sampler: refuse,
    6 max_cache_size: take,
    7 set_telemetry_sdk_resource_attributes: take,
    8 set_service_name_resource_attribute: take,
    9 set_instrumentation_scope: take,
    10 exporter: refuse,
});

message!(HTTP_SERVICE, "envoy.config.core.v3.HttpService", {
    1 http_uri: into COLLECTOR_URI,
    2 request_headers_to_add: each HEADER_VALUE_OPTION,
    3 formatters: refuse,
});

// Another than that of authorization services, whose URI is of no effect.
message!(COLLECTOR_URI, "envoy.config.core.v3.HttpUri", {
    1 uri: take,
    2 cluster: take,
    3 timeout: take,
});
