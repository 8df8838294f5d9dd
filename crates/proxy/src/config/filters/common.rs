//! What several filters are configured with.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::matcher::v3::{ListStringMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3 as kinds;
use envoy_types::pb::google::protobuf as wkt;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use crate::bucket::BucketLimits;
use crate::config::matching::{header_add, header_name, string};
use crate::config::{At, Checked, duration, each, limit, refuse};
use crate::format::Template;
use crate::fraction::Fraction;
use crate::http::call::GrpcService;
use crate::matcher::StringMatch;
use crate::route::HeaderAdd;

/// Envoy's least: a bucket that fills faster would only burn time.
const FILL_INTERVAL: Duration = Duration::from_millis(50);
/// Envoy's most of configured headers of a filter.
const HEADERS: usize = 10;

pub(in crate::config) fn fraction(message: &kinds::FractionalPercent) -> Checked<Fraction> {
    use kinds::fractional_percent::DenominatorType;
    let denominator = match DenominatorType::try_from(message.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return refuse("an unknown denominator").at("denominator"),
    };
    Ok(Fraction {
        numerator: message.numerator,
        denominator,
    })
}

/// A share that a runtime could change; ours has none, so the default counts.
pub(super) fn runtime_fraction(
    message: Option<&core::RuntimeFractionalPercent>,
    absent: Fraction,
) -> Checked<Fraction> {
    match message {
        None => Ok(absent),
        Some(message) => match &message.default_value {
            Some(value) => fraction(value).at("default_value"),
            None => Ok(Fraction::NONE),
        },
    }
}

/// A switch that a runtime could change.
pub(super) fn runtime_flag(message: Option<&core::RuntimeFeatureFlag>, absent: bool) -> bool {
    message.map_or(absent, |message| {
        message.default_value.is_some_and(|value| value.value)
    })
}

pub(super) fn bucket(message: &kinds::TokenBucket) -> Checked<BucketLimits> {
    let tokens_per_fill = message.tokens_per_fill.map_or(1, |tokens| tokens.value);
    if tokens_per_fill == 0 {
        return refuse("at least one token per fill is needed").at("tokens_per_fill");
    }
    let fill_interval = match &message.fill_interval {
        Some(interval) => duration(interval).at("fill_interval")?,
        None => return refuse("an interval is needed").at("fill_interval"),
    };
    if fill_interval < FILL_INTERVAL {
        return refuse("less than 50 ms").at("fill_interval");
    }
    Ok(BucketLimits {
        max_tokens: message.max_tokens,
        tokens_per_fill,
        fill_interval,
    })
}

/// A status of refusals, as Envoy takes it: an error, else the default.
pub(super) fn error_status(message: Option<&kinds::HttpStatus>, default: StatusCode) -> StatusCode {
    status(message, default, 400)
}

/// A status from `least` on, else the default.
pub(super) fn status(
    message: Option<&kinds::HttpStatus>,
    default: StatusCode,
    least: u16,
) -> StatusCode {
    message
        .and_then(|message| u16::try_from(message.code).ok())
        .filter(|code| *code >= least)
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(default)
}

pub(super) fn headers(field: &str, list: &[core::HeaderValueOption]) -> Checked<Vec<HeaderAdd>> {
    if list.len() > HEADERS {
        return refuse(format!("more than {HEADERS}")).at(field);
    }
    each(field, list, header_add)
}

/// A header of requests of the proxy's own.
pub(super) fn header(message: &core::HeaderValue) -> Checked<(HeaderName, HeaderValue)> {
    let name = header_name(&message.key).at("key")?;
    match HeaderValue::from_str(&message.value) {
        Ok(value) => Ok((name, value)),
        Err(_) => refuse("not a header value").at("value"),
    }
}

pub(super) fn strings(field: &str, message: &ListStringMatcher) -> Checked<Vec<StringMatch>> {
    each(&format!("{field}.patterns"), &message.patterns, |m| {
        string(m)
    })
}

pub(super) fn string_list(list: &[StringMatcher]) -> Checked<Vec<StringMatch>> {
    each("allow_origin_string_match", list, string)
}

/// A service of a cluster; `timeout` stands in place of one that is not set.
pub(in crate::config) fn grpc_service(
    message: Option<&core::GrpcService>,
    timeout: Option<Duration>,
) -> Checked<GrpcService> {
    use core::grpc_service::TargetSpecifier;
    let Some(message) = message else {
        return refuse("a service is needed");
    };
    let envoy = match &message.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) if !envoy.cluster_name.is_empty() => envoy,
        _ => return refuse("a cluster is needed").at("envoy_grpc"),
    };
    let authority = match envoy.authority.as_str() {
        "" => envoy.cluster_name.as_str(),
        given => given,
    };
    let is_valid = authority.parse::<http::uri::Authority>().is_ok();
    // Names of clusters may hold what no authority may: a bar, a slash.
    let authority = match (is_valid, envoy.authority.is_empty()) {
        (true, _) => authority.to_owned(),
        (false, true) => authority.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-"),
        (false, false) => return refuse("not an authority").at("envoy_grpc.authority"),
    };
    Ok(GrpcService {
        cluster: envoy.cluster_name.as_str().into(),
        authority,
        timeout: limit(message.timeout.as_ref(), timeout).at("timeout")?,
        metadata: each("initial_metadata", &message.initial_metadata, |header| {
            let name = header_name(&header.key).at("key")?;
            let value = Template::parse(&header.value).or_else(|reason| refuse(reason).at("value"));
            Ok((name, value?))
        })?,
    })
}

pub(super) fn version(number: i32) -> Checked<()> {
    match core::ApiVersion::try_from(number) {
        Ok(core::ApiVersion::V3 | core::ApiVersion::Auto) => Ok(()),
        _ => refuse("only V3 is supported").at("transport_api_version"),
    }
}

/// The timeout of a call: this, or the default; zero switches it off.
pub(super) fn call_timeout(
    message: Option<&wkt::Duration>,
    default: Duration,
) -> Checked<Option<Duration>> {
    limit(message, Some(default)).at("timeout")
}
