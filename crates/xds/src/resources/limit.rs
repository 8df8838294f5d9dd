//! Limits: circuit breakers of clusters, rates of connections and requests.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds},
            core::v3::{
                HeaderValue, HeaderValueOption, RuntimeFractionalPercent,
                header_value_option::HeaderAppendAction,
            },
        },
        extensions::filters::{
            http::local_ratelimit::v3::LocalRateLimit as RequestRateLimit,
            network::local_ratelimit::v3::LocalRateLimit as ConnectionRateLimit,
        },
        r#type::v3::{
            FractionalPercent, HttpStatus, TokenBucket, fractional_percent::DenominatorType,
        },
    },
    google::protobuf::Any,
};
use model::{ConnectionLimits, RequestLimit};

use super::build;

/// Name of the filter for requests, by which hosts and routes configure it.
pub(super) const REQUESTS: &str = "envoy.filters.http.local_ratelimit";
/// Name of the filter for connections.
pub(super) const CONNECTIONS: &str = "envoy.filters.network.local_ratelimit";

/// Prefix of the statistics of limited requests, as upstream's.
const STAT_PREFIX: &str = "http_local_rate_limiter";

/// What a cluster may be used for at a time. Without a limit there is none; left out, Envoy's own would be 1024.
pub(super) fn circuit_breakers(limits: &ConnectionLimits) -> CircuitBreakers {
    let bound = |limit: Option<u32>| build::number(limit.unwrap_or(u32::MAX));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: bound(limits.connections),
            max_pending_requests: bound(limits.pending_requests),
            max_requests: bound(limits.requests),
            max_retries: bound(limits.retries),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The filter that limits connections.
pub(super) fn connection_filter(stat_prefix: &str, rate: &model::TokenBucket) -> Any {
    build::any(&ConnectionRateLimit {
        stat_prefix: stat_prefix.to_owned(),
        token_bucket: Some(bucket(rate)),
        ..Default::default()
    })
}

/// The filter that limits requests where a host or route says so.
pub(super) fn request_filter() -> Any {
    build::any(&RequestRateLimit {
        stat_prefix: STAT_PREFIX.to_owned(),
        ..Default::default()
    })
}

/// The limit as configuration of a host or route.
pub(super) fn per_filter_config(rate: Option<&RequestLimit>) -> HashMap<String, Any> {
    let entry = |rate| (REQUESTS.to_owned(), build::any(&request_limit(rate)));
    rate.into_iter().map(entry).collect()
}

fn request_limit(rate: &RequestLimit) -> RequestRateLimit {
    let always = || {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred.into(),
            }),
            ..Default::default()
        })
    };
    RequestRateLimit {
        stat_prefix: STAT_PREFIX.to_owned(),
        status: Some(HttpStatus {
            code: rate.status.into(),
        }),
        token_bucket: Some(bucket(&rate.bucket)),
        filter_enabled: always(),
        filter_enforced: always(),
        response_headers_to_add: rate
            .headers
            .iter()
            .map(|(name, value)| HeaderValueOption {
                header: Some(HeaderValue {
                    key: name.to_string(),
                    value: value.to_string(),
                    ..Default::default()
                }),
                append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn bucket(bucket: &model::TokenBucket) -> TokenBucket {
    TokenBucket {
        max_tokens: bucket.capacity,
        tokens_per_fill: build::number(bucket.fill),
        fill_interval: Some(build::duration(bucket.interval)),
    }
}
