//! Global rate limits: a service is asked for every request (`envoy.service.ratelimit.v3`).

use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as common;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, rate_limit::Unit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use envoy_types::pb::google::protobuf::UInt64Value;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::counters::of_cluster;
use super::descriptors::{Descriptor, HostLimits, RateLimitPolicy};
use super::headers::{Additions, apply, computed};
use super::local_rate_limit::{LIMIT, REMAINING, RESET, RESOURCE_EXHAUSTED};
use super::overrides::Override;
use super::{FilterContext, State, Verdict};
use crate::fraction::Fraction;
use crate::http::call::{CallError, GrpcService};
use crate::http::reply::LocalReply;
use crate::reason::Reason;
use crate::route::{AddMode, HeaderAdd};
use crate::worker::Worker;

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
const X_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

const OK: usize = 0;
const ERROR: usize = 1;
const OVER_LIMIT: usize = 2;
const FAILURE_MODE_ALLOWED: usize = 3;
/// Names of the counters, under `cluster.<name>.ratelimit.`.
pub const NAMES: &[&str] = &["ok", "error", "over_limit", "failure_mode_allowed"];

/// The service and what it is asked for.
#[derive(Debug)]
pub struct RateLimitService {
    /// The limits' domain.
    pub domain: String,
    /// The service.
    pub service: GrpcService,
}

/// The filter.
#[derive(Debug)]
pub struct RateLimit {
    /// The service.
    pub service: RateLimitService,
    /// Which `rate_limits` of routes count.
    pub stage: u32,
    /// `Some(true)`: only internal requests; `Some(false)`: only external ones.
    pub internal: Option<bool>,
    /// Requests that are asked for.
    pub enabled: Fraction,
    /// Requests that are refused when over the limit.
    pub enforced: Fraction,
    /// Requests that are refused when the service fails.
    pub deny_on_failure: Fraction,
    /// Status of a refusal.
    pub status: StatusCode,
    /// Status when the service fails.
    pub status_on_error: StatusCode,
    /// gRPC's RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
    /// `x-ratelimit-*` in responses.
    pub with_headers: bool,
    /// `retry-after` in refusals with 429.
    pub with_retry_after: bool,
    /// `x-envoy-ratelimited` in refusals.
    pub with_ratelimited: bool,
    /// Headers of refusals.
    pub response_headers: Vec<HeaderAdd>,
    /// Policies of the filter, in place of those of routes.
    pub policies: Vec<RateLimitPolicy>,
    /// `ratelimit`, or with a name behind it.
    pub stat_prefix: String,
}

/// What a route says.
#[derive(Debug)]
pub struct RateLimitRoute {
    /// How the policies of virtual hosts join in.
    pub host_limits: HostLimits,
    /// Policies in place of all others.
    pub policies: Vec<RateLimitPolicy>,
    /// Another domain.
    pub domain: Option<String>,
}

// === impl RateLimitService ===

impl RateLimitService {
    /// Asks the service.
    pub async fn ask(
        &self,
        worker: &Worker,
        domain: Option<&str>,
        descriptors: &[Descriptor],
        metadata: HeaderMap,
    ) -> Result<RateLimitResponse, CallError> {
        let request = RateLimitRequest {
            domain: domain.unwrap_or(&self.domain).to_owned(),
            descriptors: descriptors.iter().map(message).collect(),
            hits_addend: 0,
        };
        self.service.call(worker, METHOD, metadata, &request).await
    }
}

fn message(descriptor: &Descriptor) -> common::RateLimitDescriptor {
    use common::rate_limit_descriptor::{Entry, RateLimitOverride};
    common::RateLimitDescriptor {
        entries: descriptor
            .entries
            .iter()
            .map(|(key, value)| Entry {
                key: key.clone(),
                value: value.clone(),
            })
            .collect(),
        limit: descriptor
            .limit
            .map(|(requests_per_unit, unit)| RateLimitOverride {
                requests_per_unit,
                unit: RateLimitUnit::try_from(unit).unwrap_or_default().into(),
            }),
        hits_addend: descriptor.hits.map(|value| UInt64Value { value }),
        ..Default::default()
    }
}

/// Asks for a request, and refuses it if it is over the limit.
pub(super) async fn request(
    name: &str,
    filter: &RateLimit,
    context: &mut FilterContext<'_, '_>,
) -> Verdict {
    let is_internal = context
        .parts
        .headers
        .get(INTERNAL)
        .is_some_and(|value| value == "true");
    let concerned = filter.internal.is_none_or(|wanted| wanted == is_internal);
    if !concerned || !filter.enabled.draw() {
        return Ok(None);
    }
    let route = match context.routing.specific(name) {
        Some(Override::RateLimit(route)) => Some(route),
        _ => None,
    };
    let host_limits = route.map_or(HostLimits::Override, |route| route.host_limits);
    let policies = match route.map(|route| route.policies.as_slice()) {
        Some(policies) if !policies.is_empty() => policies,
        _ => &filter.policies,
    };
    let descriptors = context.descriptors(policies, host_limits, filter.stage);
    if descriptors.is_empty() {
        return Ok(None);
    }
    let domain = route.and_then(|route| route.domain.as_deref());
    let worker = &context.connection.worker;
    let metadata = filter.service.service.metadata(context);
    let asked = filter.service.ask(worker, domain, &descriptors, metadata);
    let answer = asked.await;
    let answer = answer.and_then(|answer| match Code::try_from(answer.overall_code) {
        Ok(Code::Ok) => Ok((answer, false)),
        Ok(Code::OverLimit) => Ok((answer, true)),
        _ => Err(CallError::Answer("neither OK nor OVER_LIMIT")),
    });
    match answer {
        Ok((answer, is_over)) => {
            count(filter, context, if is_over { OVER_LIMIT } else { OK });
            judged(filter, context, answer, is_over)
        }
        Err(error) => {
            tracing::debug!(%error, "rate limit service");
            count(filter, context, ERROR);
            if !filter.deny_on_failure.draw() {
                count(filter, context, FAILURE_MODE_ALLOWED);
                return Ok(None);
            }
            let mut reply = LocalReply::from(Reason::RateLimitServiceError);
            reply.status = filter.status_on_error;
            Err(Box::new(reply))
        }
    }
}

fn judged(
    filter: &RateLimit,
    context: &mut FilterContext<'_, '_>,
    answer: RateLimitResponse,
    is_over: bool,
) -> Verdict {
    let pairs = |list: &[envoy_types::pb::envoy::config::core::v3::HeaderValue]| -> Additions {
        list.iter().filter_map(header).collect()
    };
    let mut headers = pairs(&answer.response_headers_to_add);
    if is_over && filter.with_ratelimited {
        let yes = HeaderValue::from_static("true");
        headers.push((AddMode::Overwrite, X_RATELIMITED, yes));
    }
    if filter.with_headers {
        headers.extend(limits(&answer.statuses));
    }
    if !is_over || !filter.enforced.draw() {
        apply(
            pairs(&answer.request_headers_to_add),
            &mut context.parts.headers,
        );
        return Ok(Some(State::Headers(headers)));
    }
    let mut reply = LocalReply::from(Reason::RateLimited);
    reply.status = filter.status;
    reply.body = answer.raw_body.into();
    reply.grpc_status = filter.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
    if filter.with_retry_after
        && filter.status == StatusCode::TOO_MANY_REQUESTS
        && let Some(seconds) = longest_wait(&answer.statuses)
    {
        let value = HeaderValue::from(seconds);
        headers.push((AddMode::IfAbsent, RETRY_AFTER, value));
    }
    for (mode, name, _) in &mut headers {
        if *name == CONTENT_TYPE {
            *mode = AddMode::Overwrite;
        }
    }
    headers.extend(computed(&filter.response_headers, context));
    reply.headers = headers;
    Err(Box::new(reply))
}

fn header(
    header: &envoy_types::pb::envoy::config::core::v3::HeaderValue,
) -> Option<(AddMode, HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
    let text = if header.value.is_empty() {
        header.raw_value.as_slice()
    } else {
        header.value.as_bytes()
    };
    let value = HeaderValue::from_bytes(text).ok()?;
    Some((AddMode::Append, name, value))
}

/// `x-ratelimit-*`: of the limit that is nearest, with all limits as its policy.
fn limits(statuses: &[DescriptorStatus]) -> Additions {
    let known = || {
        let statuses = statuses.iter();
        statuses.filter_map(|status| Some((status, status.current_limit.as_ref()?)))
    };
    let Some((nearest, limit)) = known().min_by_key(|(status, _)| status.limit_remaining) else {
        return Vec::new();
    };
    let mut text = limit.requests_per_unit.to_string();
    for (_, limit) in known() {
        let window = window(limit.unit);
        if window == 0 {
            continue;
        }
        text.push_str(&format!(", {};w={window}", limit.requests_per_unit));
        if !limit.name.is_empty() {
            text.push_str(&format!(";name=\"{}\"", limit.name));
        }
    }
    let reset = nearest
        .duration_until_reset
        .map_or(0, |reset| reset.seconds);
    let mut headers = vec![
        (
            AddMode::Overwrite,
            REMAINING,
            HeaderValue::from(nearest.limit_remaining),
        ),
        (AddMode::Overwrite, RESET, HeaderValue::from(reset)),
    ];
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(0, (AddMode::Overwrite, LIMIT, value));
    }
    headers
}

/// Seconds of a unit.
fn window(unit: i32) -> u32 {
    match Unit::try_from(unit) {
        Ok(Unit::Second) => 1,
        Ok(Unit::Minute) => 60,
        Ok(Unit::Hour) => 3600,
        Ok(Unit::Day) => 86_400,
        Ok(Unit::Week) => 604_800,
        Ok(Unit::Month) => 2_592_000,
        Ok(Unit::Year) => 31_536_000,
        Ok(Unit::Unknown) | Err(_) => 0,
    }
}

/// Seconds until the last of the limits that are reached is reset.
fn longest_wait(statuses: &[DescriptorStatus]) -> Option<i64> {
    let over = statuses
        .iter()
        .filter(|status| Code::try_from(status.code) == Ok(Code::OverLimit));
    over.map(|status| status.duration_until_reset.map_or(0, |reset| reset.seconds))
        .max()
        .map(|seconds| seconds.max(1))
}

/// Counts for the cluster of the route.
fn count(filter: &RateLimit, context: &FilterContext<'_, '_>, index: usize) {
    if let Some(cluster) = context.cluster() {
        let scope = of_cluster(context.stats(), cluster, &filter.stat_prefix, NAMES);
        scope.counter(index).increment();
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::RateLimit as Limit;
    use envoy_types::pb::google::protobuf::Duration;

    use super::*;

    fn status(code: Code, requests: u32, unit: Unit, name: &str, left: u32) -> DescriptorStatus {
        DescriptorStatus {
            code: code.into(),
            current_limit: Some(Limit {
                requests_per_unit: requests,
                unit: unit.into(),
                name: name.into(),
            }),
            limit_remaining: left,
            duration_until_reset: Some(Duration {
                seconds: i64::from(left).saturating_mul(10),
                nanos: 0,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn the_nearest_limit_is_shown_with_all_as_its_policy() {
        let statuses = [
            status(Code::Ok, 100, Unit::Hour, "", 5),
            status(Code::Ok, 10, Unit::Minute, "nm", 3),
            DescriptorStatus::default(),
        ];
        let shown = limits(&statuses);
        let text: Vec<&str> = shown
            .iter()
            .map(|(_, _, value)| value.to_str().unwrap())
            .collect();
        assert_eq!(text, ["10, 100;w=3600, 10;w=60;name=\"nm\"", "3", "30"]);
        assert!(limits(&[]).is_empty());
    }

    #[test]
    fn the_wait_is_that_of_the_last_limit_that_is_reached() {
        let statuses = [
            status(Code::OverLimit, 1, Unit::Minute, "", 0),
            status(Code::OverLimit, 1, Unit::Hour, "", 7),
            status(Code::Ok, 1, Unit::Hour, "", 9),
        ];
        assert_eq!(longest_wait(&statuses), Some(70));
        assert_eq!(longest_wait(&statuses[..1]), Some(1));
        assert_eq!(longest_wait(&statuses[2..]), None);
    }
}
