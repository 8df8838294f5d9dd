//! A route's conditions from protobuf.

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

use crate::config::matching::{header, query, regex, string};
use crate::config::{At, Checked, each, flag, refuse};
use crate::matcher::{Affix, StringMatch};
use crate::route::{Certificate, CookieMatch, Fraction, PathMatch, RouteMatch};

pub(super) fn route_match(message: &pb::RouteMatch) -> Checked<RouteMatch> {
    let certificate = message.tls_context.as_ref();
    Ok(RouteMatch {
        path: path(message)?,
        headers: each("headers", &message.headers, header)?,
        query: each("query_parameters", &message.query_parameters, query)?,
        cookies: each("cookies", &message.cookies, cookie)?,
        grpc: message.grpc.is_some(),
        fraction: message
            .runtime_fraction
            .as_ref()
            .map(runtime_fraction)
            .transpose()
            .at("runtime_fraction")?,
        certificate: Certificate {
            presented: certificate.and_then(|tls| tls.presented.as_ref().map(|v| v.value)),
            validated: certificate.and_then(|tls| tls.validated.as_ref().map(|v| v.value)),
        },
    })
}

fn path(message: &pb::RouteMatch) -> Checked<PathMatch> {
    use pb::route_match::PathSpecifier as Path;
    let exact_case = flag(message.case_sensitive.as_ref(), true);
    Ok(match &message.path_specifier {
        Some(Path::Prefix(prefix)) if exact_case => PathMatch::Prefix(prefix.clone()),
        Some(Path::Prefix(prefix)) => PathMatch::PrefixNoCase(prefix.to_ascii_lowercase()),
        Some(Path::Path(path)) if exact_case => PathMatch::Text(StringMatch::Exact(path.clone())),
        Some(Path::Path(path)) => {
            PathMatch::Text(StringMatch::NoCase(Affix::Whole, path.to_ascii_lowercase()))
        }
        Some(Path::SafeRegex(message)) => PathMatch::Text(regex(message).at("safe_regex")?),
        Some(Path::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return refuse(format!("{prefix:?} does not begin, or ends, with a slash"))
                    .at("path_separated_prefix");
            }
            if exact_case {
                PathMatch::Segments(prefix.clone())
            } else {
                PathMatch::SegmentsNoCase(prefix.to_ascii_lowercase())
            }
        }
        Some(Path::ConnectMatcher(_)) => PathMatch::Connect,
        _ => return refuse("a path specifier is needed"),
    })
}

fn cookie(message: &pb::CookieMatcher) -> Checked<CookieMatch> {
    let Some(value) = &message.string_match else {
        return refuse("a condition is needed").at("string_match");
    };
    if message.name.is_empty() {
        return refuse("a name is needed").at("name");
    }
    Ok(CookieMatch {
        name: message.name.clone(),
        value: string(value).at("string_match")?,
        invert: message.invert_match,
    })
}

/// A share; there is no runtime, so its default counts.
fn runtime_fraction(message: &RuntimeFractionalPercent) -> Checked<Fraction> {
    match &message.default_value {
        Some(value) => fraction(value).at("default_value"),
        None => refuse("a default is needed").at("default_value"),
    }
}

/// A share of requests.
fn fraction(message: &FractionalPercent) -> Checked<Fraction> {
    let denominator = match DenominatorType::try_from(message.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return refuse("an unknown value").at("denominator"),
    };
    Ok(Fraction {
        numerator: message.numerator,
        denominator,
    })
}
