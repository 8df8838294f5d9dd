//! Rate limits, local and global, from protobuf.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::GrpcService as PbService;
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3 as local;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3 as global;
use http::StatusCode;

use super::common::{
    bucket, call_timeout, error_status, fraction, grpc_service, headers, runtime_fraction, status,
    version,
};
use crate::bucket::TokenBucket;
use crate::config::matching::{header, query};
use crate::config::{At, Checked, each, flag, refuse};
use crate::fraction::Fraction;
use crate::http::filters::counters::Counters;
use crate::http::filters::descriptors::{DescriptorAction, HostLimits, RateLimitPolicy};
use crate::http::filters::local_rate_limit::{self, Limiter, LocalRateLimit};
use crate::http::filters::rate_limit::{RateLimit, RateLimitRoute, RateLimitService};
use crate::matcher::HeaderKey;
use crate::stats::Family;

/// Envoy's default of a call to a rate limit service.
const TIMEOUT: Duration = Duration::from_millis(20);

pub(super) fn local(message: &local::LocalRateLimit) -> Checked<LocalRateLimit> {
    if message.stat_prefix.is_empty() {
        return refuse("a prefix is needed").at("stat_prefix");
    }
    let default = message.token_bucket.as_ref().map(bucket).transpose();
    let by_descriptor = each("descriptors", &message.descriptors, |descriptor| {
        let entries = each("entries", &descriptor.entries, |entry| {
            match (entry.key.is_empty(), entry.value.is_empty()) {
                (true, _) => refuse("a key is needed").at("key"),
                (_, true) => refuse("a value for all values is not supported").at("value"),
                _ => Ok((entry.key.clone(), entry.value.clone())),
            }
        })?;
        let limits = match &descriptor.token_bucket {
            Some(message) => bucket(message).at("token_bucket")?,
            None => return refuse("a bucket is needed").at("token_bucket"),
        };
        Ok((entries, TokenBucket::new(limits)))
    })?;
    Ok(LocalRateLimit {
        limiter: Limiter {
            default: default.at("token_bucket")?.map(TokenBucket::new),
            by_descriptor,
            always_default: flag(message.always_consume_default_token_bucket.as_ref(), true),
        },
        per_connection: message.local_rate_limit_per_downstream_connection,
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::NONE)
            .at("filter_enabled")?,
        enforced: runtime_fraction(message.filter_enforced.as_ref(), Fraction::NONE)
            .at("filter_enforced")?,
        status: error_status(message.status.as_ref(), StatusCode::TOO_MANY_REQUESTS),
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        response_headers: headers("response_headers_to_add", &message.response_headers_to_add)?,
        request_headers: headers(
            "request_headers_to_add_when_not_enforced",
            &message.request_headers_to_add_when_not_enforced,
        )?,
        with_headers: draft(message.enable_x_ratelimit_headers)?,
        with_retry_after: message.enable_retry_after_header,
        stage: stage(message.stage)?,
        host_limits: host_limits(message.vh_rate_limits)?,
        policies: policies(&message.rate_limits)?,
        counters: Counters::new(
            Family::new(
                format!("{}.http_local_rate_limit.", message.stat_prefix),
                "envoy_http_local_rate_limit_",
            )
            .label(
                "envoy_local_http_ratelimit_prefix",
                message.stat_prefix.as_str(),
            ),
            local_rate_limit::NAMES,
        ),
    })
}

/// A route's local rate limit, which must have a bucket of its own.
pub(super) fn local_of_route(message: &local::LocalRateLimit) -> Checked<LocalRateLimit> {
    if message.token_bucket.is_none() {
        return refuse("a bucket is needed").at("token_bucket");
    }
    local(message)
}

pub(super) fn global(message: &global::RateLimit) -> Checked<RateLimit> {
    let internal = match message.request_type.as_str() {
        "" | "both" => None,
        "internal" => Some(true),
        "external" => Some(false),
        other => return refuse(format!("{other:?} is no type of requests")).at("request_type"),
    };
    let service = service(
        &message.domain,
        message.rate_limit_service.as_ref(),
        call_timeout(message.timeout.as_ref(), TIMEOUT)?,
    )?;
    let deny = match message.failure_mode_deny {
        true => Fraction::ALL,
        false => Fraction::NONE,
    };
    let version = match global::rate_limit::XRateLimitHeadersRfcVersion::try_from(
        message.enable_x_ratelimit_headers,
    ) {
        Ok(version) => version == global::rate_limit::XRateLimitHeadersRfcVersion::DraftVersion03,
        Err(_) => return refuse("an unknown version").at("enable_x_ratelimit_headers"),
    };
    let of_prefix = |prefix: &str| match prefix {
        "" => "ratelimit".to_owned(),
        prefix => format!("ratelimit.{prefix}"),
    };
    Ok(RateLimit {
        service,
        stage: stage(message.stage)?,
        internal,
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::ALL)
            .at("filter_enabled")?,
        enforced: runtime_fraction(message.filter_enforced.as_ref(), Fraction::ALL)
            .at("filter_enforced")?,
        deny_on_failure: match &message.failure_mode_deny_percent {
            Some(percent) => percent
                .default_value
                .as_ref()
                .map_or(Ok(deny), fraction)
                .at("failure_mode_deny_percent.default_value")?,
            None => deny,
        },
        status: error_status(
            message.rate_limited_status.as_ref(),
            StatusCode::TOO_MANY_REQUESTS,
        ),
        status_on_error: status(
            message.status_on_error.as_ref(),
            StatusCode::INTERNAL_SERVER_ERROR,
            200,
        ),
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        with_headers: version,
        with_retry_after: message.enable_retry_after_header,
        with_ratelimited: !message.disable_x_envoy_ratelimited_header,
        response_headers: headers("response_headers_to_add", &message.response_headers_to_add)?,
        policies: policies(&message.rate_limits)?,
        stat_prefix: of_prefix(&message.stat_prefix),
    })
}

pub(super) fn global_of_route(message: &global::RateLimitPerRoute) -> Checked<RateLimitRoute> {
    Ok(RateLimitRoute {
        host_limits: host_limits(message.vh_rate_limits)?,
        policies: policies(&message.rate_limits)?,
        domain: Some(message.domain.clone()).filter(|domain| !domain.is_empty()),
    })
}

/// A rate limit service, as both filters have it.
pub(super) fn service(
    domain: &str,
    message: Option<&RateLimitServiceConfig>,
    timeout: Option<Duration>,
) -> Checked<RateLimitService> {
    if domain.is_empty() {
        return refuse("a domain is needed").at("domain");
    }
    let Some(message) = message else {
        return refuse("a service is needed").at("rate_limit_service");
    };
    version(message.transport_api_version).at("rate_limit_service")?;
    // The filter's own timeout counts, never that of the service.
    let without: Option<PbService> = message.grpc_service.clone().map(|service| PbService {
        timeout: None,
        ..service
    });
    let mut service = grpc_service(without.as_ref(), None).at("rate_limit_service.grpc_service")?;
    service.timeout = timeout;
    Ok(RateLimitService {
        domain: domain.to_owned(),
        service,
    })
}

fn draft(number: i32) -> Checked<bool> {
    match XRateLimitHeadersRfcVersion::try_from(number) {
        Ok(version) => Ok(version == XRateLimitHeadersRfcVersion::DraftVersion03),
        Err(_) => refuse("an unknown version").at("enable_x_ratelimit_headers"),
    }
}

fn stage(number: u32) -> Checked<u32> {
    if number > 10 {
        return refuse("a stage is from 0 to 10").at("stage");
    }
    Ok(number)
}

/// Both filters number the options alike.
fn host_limits(number: i32) -> Checked<HostLimits> {
    match VhRateLimitsOptions::try_from(number) {
        Ok(VhRateLimitsOptions::Override) => Ok(HostLimits::Override),
        Ok(VhRateLimitsOptions::Include) => Ok(HostLimits::Include),
        Ok(VhRateLimitsOptions::Ignore) => Ok(HostLimits::Ignore),
        Err(_) => refuse("an unknown option").at("vh_rate_limits"),
    }
}

/// `rate_limits` of a filter, a virtual host or a route.
pub(crate) fn policies(list: &[route::RateLimit]) -> Checked<Vec<RateLimitPolicy>> {
    each("rate_limits", list, policy)
}

fn policy(message: &route::RateLimit) -> Checked<RateLimitPolicy> {
    use route::rate_limit::r#override::OverrideSpecifier;
    if message.actions.is_empty() {
        return refuse("at least one action is needed").at("actions");
    }
    let limit = match message
        .limit
        .as_ref()
        .map(|limit| &limit.override_specifier)
    {
        None => None,
        Some(Some(OverrideSpecifier::RateLimit(limit))) => {
            Some((limit.requests_per_unit, limit.unit))
        }
        Some(_) => return refuse("there is no dynamic metadata").at("limit"),
    };
    let hits = match &message.hits_addend {
        Some(addend) if !addend.format.is_empty() || addend.is_negative_hits => {
            return refuse("only a number is supported").at("hits_addend");
        }
        Some(addend) => addend.number.map(|number| number.value),
        None => None,
    };
    if hits.is_some_and(|hits| hits > 1_000_000_000) {
        return refuse("more than 1000000000").at("hits_addend.number");
    }
    Ok(RateLimitPolicy {
        stage: stage(message.stage.map_or(0, |stage| stage.value))?,
        actions: each("actions", &message.actions, action)?,
        limit,
        hits,
    })
}

fn action(message: &route::rate_limit::Action) -> Checked<DescriptorAction> {
    use route::rate_limit::action::ActionSpecifier as Action;
    let key = |given: &str, default: &str| match given {
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    Ok(match &message.action_specifier {
        Some(Action::SourceCluster(_)) => DescriptorAction::SourceCluster,
        Some(Action::DestinationCluster(_)) => DescriptorAction::DestinationCluster,
        Some(Action::RemoteAddress(_)) => DescriptorAction::RemoteAddress,
        Some(Action::RequestHeaders(message)) => DescriptorAction::RequestHeader {
            header: match HeaderKey::parse(&message.header_name) {
                Some(header) => header,
                None => return refuse("not a header name").at("request_headers.header_name"),
            },
            key: message.descriptor_key.clone(),
            skip_if_absent: message.skip_if_absent,
        },
        Some(Action::QueryParameters(message)) => DescriptorAction::QueryParameter {
            name: message.query_parameter_name.clone(),
            key: message.descriptor_key.clone(),
            skip_if_absent: message.skip_if_absent,
        },
        Some(Action::MaskedRemoteAddress(message)) => {
            let length = |given: Option<u32>, most: u8| match given.map(u8::try_from) {
                None => Ok(most),
                Some(Ok(length)) if length <= most => Ok(length),
                Some(_) => refuse("not a prefix length").at("masked_remote_address"),
            };
            DescriptorAction::MaskedRemoteAddress(
                length(message.v4_prefix_mask_len.map(|length| length.value), 32)?,
                length(message.v6_prefix_mask_len.map(|length| length.value), 128)?,
            )
        }
        Some(Action::GenericKey(message)) => DescriptorAction::GenericKey(
            key(&message.descriptor_key, "generic_key"),
            message.descriptor_value.clone(),
        ),
        Some(Action::HeaderValueMatch(message)) => DescriptorAction::HeaderValueMatch {
            key: key(&message.descriptor_key, "header_match"),
            value: message.descriptor_value.clone(),
            expected: flag(message.expect_match.as_ref(), true),
            headers: each("header_value_match.headers", &message.headers, header)?,
        },
        Some(Action::QueryParameterValueMatch(message)) => DescriptorAction::QueryValueMatch {
            key: key(&message.descriptor_key, "query_match"),
            value: message.descriptor_value.clone(),
            expected: flag(message.expect_match.as_ref(), true),
            parameters: each(
                "query_parameter_value_match.query_parameters",
                &message.query_parameters,
                query,
            )?,
        },
        _ => return refuse("this action is not supported"),
    })
}
