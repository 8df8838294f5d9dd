//! Limits: circuit breakers of clusters, rates of connections and requests.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds},
            core::v3::{
                HeaderValue, HeaderValueOption, Metadata, RuntimeFractionalPercent,
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
    google::protobuf::{Any, ListValue, Struct, Value, value::Kind},
};
use model::{CircuitBreaker, Cluster, ConnectionLimits, RequestLimit, UpstreamHttp};

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

/// Key of what our proxy breaks circuits by, in a cluster's metadata: Envoy has no field for it and ignores this one.
const BREAKER: &str = "osm.circuit_breaker";

/// When errors and slow answers break the cluster's circuit. A list of structs with a field each: the order of a map
/// would not be stable.
pub(super) fn breaker(cluster: &Cluster) -> Option<Metadata> {
    let breaker = cluster.limits.breaker.as_deref()?;
    if cluster.http == UpstreamHttp::Opaque {
        return None;
    }
    let values = breaker_settings(breaker).into_iter();
    let values = values.map(|(name, kind)| structure(name, kind));
    let list = Kind::ListValue(ListValue {
        values: values
            .map(|fields| Value {
                kind: Some(Kind::StructValue(fields)),
            })
            .collect(),
    });
    let entry = (BREAKER.to_owned(), structure("settings", list));
    Some(Metadata {
        filter_metadata: HashMap::from([entry]),
        ..Default::default()
    })
}

#[allow(clippy::cast_precision_loss)] // Beyond 2^53 nobody counts.
fn breaker_settings(breaker: &CircuitBreaker) -> Vec<(&'static str, Kind)> {
    let amount =
        |name, amount: Option<u64>| amount.map(|amount| (name, Kind::NumberValue(amount as f64)));
    let share = |name, share: Option<u64>| {
        share.map(|millionths| (name, Kind::NumberValue(millionths as f64 / 1e6)))
    };
    let time = |name, time: std::time::Duration| (name, Kind::NumberValue(time.as_secs_f64()));
    [
        Some(time("window", breaker.window)),
        amount("min_requests", Some(breaker.min_requests)),
        amount("error_amount", breaker.errors.amount),
        share("error_share", breaker.errors.share),
        Some(time("slow_after", breaker.slow_after)),
        amount("slow_amount", breaker.slow.amount),
        share("slow_share", breaker.slow.share),
        Some(time("open_for", breaker.open_for)),
        amount("status", Some(breaker.status.into())),
        Some(("body", Kind::StringValue(breaker.body.to_string()))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn structure(name: &str, kind: Kind) -> Struct {
    Struct {
        fields: HashMap::from([(name.to_owned(), Value { kind: Some(kind) })]),
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
