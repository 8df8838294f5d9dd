//! Retry policies from protobuf.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use crate::config::matching::{header, header_name};
use crate::config::{At, Checked, duration, each, extension, limit, refuse};
use crate::http::retry::{Conditions, ResetFormat, Resets, RetryPolicy};

/// More retries than this serve nobody, and a request must not multiply without bound.
const RETRIES_MOST: u32 = 1000;

pub(super) fn retry(message: &pb::RetryPolicy) -> Checked<Arc<RetryPolicy>> {
    let on = Conditions::parse(&message.retry_on)
        .or_else(|name| refuse(format!("{name:?} is no condition")).at("retry_on"))?;
    let retries = message.num_retries.as_ref().map_or(1, |v| v.value);
    if retries > RETRIES_MOST {
        return refuse(format!("{retries} is more than {RETRIES_MOST}")).at("num_retries");
    }
    let (base, most) = match &message.retry_back_off {
        Some(message) => back_off(message).at("retry_back_off")?,
        None => {
            let default = RetryPolicy::default();
            (default.base, default.most)
        }
    };
    let statuses = each(
        "retriable_status_codes",
        &message.retriable_status_codes,
        |code| u16::try_from(*code).or_else(|_| refuse(format!("{code} is not a status"))),
    )?;
    Ok(Arc::new(RetryPolicy {
        on,
        retries,
        per_try_timeout: limit(message.per_try_timeout.as_ref(), None).at("per_try_timeout")?,
        per_try_idle_timeout: limit(message.per_try_idle_timeout.as_ref(), None)
            .at("per_try_idle_timeout")?,
        base,
        most,
        statuses,
        response_headers: each("retriable_headers", &message.retriable_headers, header)?,
        request_headers: each(
            "retriable_request_headers",
            &message.retriable_request_headers,
            header,
        )?,
        previous_hosts: previous_hosts(&message.retry_host_predicate)?,
        reselections: u32::try_from(message.host_selection_retry_max_attempts.max(1))
            .unwrap_or(u32::MAX),
        resets: message
            .rate_limited_retry_back_off
            .as_ref()
            .map(resets)
            .transpose()
            .at("rate_limited_retry_back_off")?,
    }))
}

fn back_off(message: &pb::retry_policy::RetryBackOff) -> Checked<(Duration, Duration)> {
    // Envoy takes less than a millisecond for one.
    let positive = |duration: Duration| duration.max(Duration::from_millis(1));
    let base = match message.base_interval.as_ref() {
        Some(base) => duration(base).at("base_interval")?,
        None => return refuse("a base interval is needed").at("base_interval"),
    };
    if base.is_zero() {
        return refuse("zero is no interval").at("base_interval");
    }
    let base = positive(base);
    let most = match message.max_interval.as_ref() {
        Some(most) => positive(duration(most).at("max_interval")?),
        None => RetryPolicy::most_of(base),
    };
    if most < base {
        return refuse("less than base_interval").at("max_interval");
    }
    Ok((base, most))
}

fn previous_hosts(list: &[pb::retry_policy::RetryHostPredicate]) -> Checked<bool> {
    use pb::retry_policy::retry_host_predicate::ConfigType;
    let known = each("retry_host_predicate", list, |predicate| {
        let Some(ConfigType::TypedConfig(any)) = &predicate.config_type else {
            return refuse("a typed_config is needed");
        };
        match extension::<PreviousHostsPredicate>(any) {
            Some(message) => message.map(|_| ()).at("typed_config"),
            None => refuse(format!("{:?} is not supported", any.type_url)).at("typed_config"),
        }
    })?;
    Ok(!known.is_empty())
}

fn resets(message: &pb::retry_policy::RateLimitedRetryBackOff) -> Checked<Resets> {
    use pb::retry_policy::ResetHeaderFormat as Format;
    if message.reset_headers.is_empty() {
        return refuse("at least one header is needed").at("reset_headers");
    }
    let headers = each("reset_headers", &message.reset_headers, |reset| {
        let format = match Format::try_from(reset.format) {
            Ok(Format::Seconds) => ResetFormat::Seconds,
            Ok(Format::UnixTimestamp) => ResetFormat::Unix,
            Err(_) => return refuse("an unknown value").at("format"),
        };
        Ok((header_name(&reset.name).at("name")?, format))
    })?;
    let most = limit(message.max_interval.as_ref(), None).at("max_interval")?;
    Ok(Resets {
        headers,
        most: most.unwrap_or(RetryPolicy::reset_most()),
    })
}
