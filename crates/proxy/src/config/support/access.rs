//! Access logs.

use super::common::SUBSTITUTION_FORMAT;
use super::message;
use super::route::HEADER_MATCHER;

message!(ACCESS_LOG, "envoy.config.accesslog.v3.AccessLog", {
    1 name: take,
    2 filter: into FILTER,
    4 typed_config: any FILE STDOUT STDERR,
});

message!(FILTER, "envoy.config.accesslog.v3.AccessLogFilter", {
    1 status_code_filter: into STATUS,
    2 duration_filter: into DURATION,
    3 not_health_check_filter: take,
    4 traceable_filter: refuse,
    5 runtime_filter: into RUNTIME,
    6 and_filter: into AND,
    7 or_filter: into OR,
    8 header_filter: into HEADER,
    9 response_flag_filter: into FLAGS,
    10 grpc_status_filter: refuse,
    11 extension_filter: refuse,
    12 metadata_filter: refuse,
    13 log_type_filter: refuse,
});

message!(STATUS, "envoy.config.accesslog.v3.StatusCodeFilter", {
    1 comparison: into COMPARISON,
});

message!(DURATION, "envoy.config.accesslog.v3.DurationFilter", {
    1 comparison: into COMPARISON,
});

message!(COMPARISON, "envoy.config.accesslog.v3.ComparisonFilter", {
    1 op: take,
    2 value: take,
});

message!(RUNTIME, "envoy.config.accesslog.v3.RuntimeFilter", {
    1 runtime_key: ignore "no runtime keys: percent_sampled counts",
    2 percent_sampled: take,
    3 use_independent_randomness: ignore "always independent",
});

message!(AND, "envoy.config.accesslog.v3.AndFilter", {
    1 filters: each FILTER,
});

message!(OR, "envoy.config.accesslog.v3.OrFilter", {
    2 filters: each FILTER,
});

message!(HEADER, "envoy.config.accesslog.v3.HeaderFilter", {
    1 header: into HEADER_MATCHER,
});

message!(FLAGS, "envoy.config.accesslog.v3.ResponseFlagFilter", {
    1 flags: take,
});

message!(FILE, "envoy.extensions.access_loggers.file.v3.FileAccessLog", {
    1 path: take,
    2 format: take,
    3 json_format: take,
    4 typed_json_format: take,
    5 log_format: into SUBSTITUTION_FORMAT,
});

message!(STDOUT, "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", {
    1 log_format: into SUBSTITUTION_FORMAT,
});

message!(STDERR, "envoy.extensions.access_loggers.stream.v3.StderrAccessLog", {
    1 log_format: into SUBSTITUTION_FORMAT,
});
