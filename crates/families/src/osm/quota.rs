//! Global rate limits of an UpstreamTrafficSetting: what a rate limit service is asked.

use std::{sync::Arc, time::Duration};

use api::policy::v1alpha1::{
    HttpGlobalRateLimit, HttpHeaderMatcher, HttpRateLimitDescriptor, HttpRateLimitDescriptorEntry,
    RateLimitService, TcpGlobalRateLimit,
};
use model::{ConnectionQuota, Descriptor, DescriptorEntry, HeaderIs, QuotaService, RequestQuota};

use super::upstream::{TOO_MANY_REQUESTS, status};
use crate::smi::{check_regex, header_name};

/// How long an answer may take when nothing is said, as upstream (and Envoy).
const TIMEOUT: Duration = Duration::from_millis(20);

/// The limit on connections.
pub(crate) fn connections(spec: &TcpGlobalRateLimit) -> Result<ConnectionQuota, String> {
    let field = "rateLimit.global.tcp";
    let mut descriptors = Vec::new();
    for (index, descriptor) in spec.descriptors.iter().enumerate() {
        let mut entries = Vec::new();
        for entry in &descriptor.entries {
            if entry.key.is_empty() {
                return Err(format!("{field}.descriptors[{index}]: a key is empty"));
            }
            entries.push((entry.key.as_str().into(), entry.value.as_str().into()));
        }
        if entries.is_empty() {
            return Err(format!("{field}.descriptors[{index}].entries is empty"));
        }
        descriptors.push(entries);
    }
    if descriptors.is_empty() {
        return Err(format!("{field}.descriptors is empty"));
    }
    let (timeout, fail_open) = (spec.timeout.as_deref(), spec.fail_open);
    Ok(ConnectionQuota {
        service: service(
            field,
            &spec.rate_limit_service,
            &spec.domain,
            timeout,
            fail_open,
        )?,
        descriptors,
    })
}

/// The limit on requests, and what of each is counted.
pub(crate) fn requests(
    spec: &HttpGlobalRateLimit,
) -> Result<(RequestQuota, Vec<Descriptor>), String> {
    let field = "rateLimit.global.http";
    let (timeout, fail_open) = (spec.timeout.as_deref(), spec.fail_open);
    let quota = RequestQuota {
        service: service(
            field,
            &spec.rate_limit_service,
            &spec.domain,
            timeout,
            fail_open,
        )?,
        status: status(
            field,
            spec.response_status_code.unwrap_or(TOO_MANY_REQUESTS),
        )?,
        told: spec.enable_x_rate_limit_headers.unwrap_or(false),
    };
    Ok((quota, descriptors(field, &spec.descriptors)?))
}

/// What of a request is counted.
pub(crate) fn descriptors(
    field: &str,
    specs: &[HttpRateLimitDescriptor],
) -> Result<Vec<Descriptor>, String> {
    let one = |(index, spec): (usize, &HttpRateLimitDescriptor)| {
        let at = format!("{field}.descriptors[{index}]");
        if spec.entries.is_empty() {
            return Err(format!("{at}.entries is empty"));
        }
        let entries = spec.entries.iter().enumerate();
        entries
            .map(|(index, spec)| {
                entry(spec).map_err(|error| format!("{at}.entries[{index}]{error}"))
            })
            .collect()
    };
    specs.iter().enumerate().map(one).collect()
}

fn service(
    field: &str,
    spec: &RateLimitService,
    domain: &str,
    timeout: Option<&str>,
    fail_open: Option<bool>,
) -> Result<QuotaService, String> {
    if spec.host.is_empty() || spec.port == 0 {
        return Err(format!("{field}.rateLimitService needs a host and a port"));
    }
    if domain.is_empty() {
        return Err(format!("{field}.domain is empty"));
    }
    let timeout = match timeout {
        None | Some("") => TIMEOUT,
        Some(text) => {
            api::duration::parse(text).map_err(|error| format!("{field}.timeout: {error}"))?
        }
    };
    Ok(QuotaService {
        host: spec.host.as_str().into(),
        port: spec.port,
        domain: domain.into(),
        timeout,
        fail_open: fail_open.unwrap_or(true),
    })
}

/// An error begins with what follows the entry's own path.
fn entry(spec: &HttpRateLimitDescriptorEntry) -> Result<DescriptorEntry, String> {
    let HttpRateLimitDescriptorEntry {
        generic_key,
        remote_address,
        request_header,
        header_value_match,
    } = spec;
    match (
        generic_key,
        remote_address,
        request_header,
        header_value_match,
    ) {
        (Some(fixed), None, None, None) => Ok(DescriptorEntry::Fixed {
            key: key(&fixed.key),
            value: filled(".genericKey.value", &fixed.value)?,
        }),
        (None, Some(_), None, None) => Ok(DescriptorEntry::RemoteAddress),
        (None, None, Some(header), None) => Ok(DescriptorEntry::Header {
            key: filled(".requestHeader.key", &header.key)?,
            name: named(".requestHeader", &header.name)?,
        }),
        (None, None, None, Some(spec)) => {
            let headers = spec.headers.iter().enumerate();
            let headers = headers.map(|(index, spec)| {
                header(spec).map_err(|error| format!(".headerValueMatch.headers[{index}]{error}"))
            });
            let headers: Vec<_> = headers.collect::<Result<_, _>>()?;
            if headers.is_empty() {
                return Err(".headerValueMatch.headers is empty".to_owned());
            }
            Ok(DescriptorEntry::HeaderMatch {
                key: key(&spec.key),
                value: filled(".headerValueMatch.value", &spec.value)?,
                expected: spec.expect_match.unwrap_or(true),
                headers,
            })
        }
        _ => Err(
            ": exactly one of genericKey, remoteAddress, requestHeader, headerValueMatch is needed"
                .to_owned(),
        ),
    }
}

fn header(spec: &HttpHeaderMatcher) -> Result<(Arc<str>, HeaderIs), String> {
    let name = named("", &spec.name)?;
    let texts = [
        spec.exact
            .as_deref()
            .map(|text| HeaderIs::Exact(text.into())),
        spec.prefix
            .as_deref()
            .map(|text| HeaderIs::Prefix(text.into())),
        spec.suffix
            .as_deref()
            .map(|text| HeaderIs::Suffix(text.into())),
        spec.regex
            .as_deref()
            .map(|text| HeaderIs::Regex(text.into())),
        spec.contains
            .as_deref()
            .map(|text| HeaderIs::Contains(text.into())),
        spec.present.map(HeaderIs::Present),
    ];
    let mut said = texts.into_iter().flatten();
    let is = match (said.next(), said.next()) {
        (Some(is), None) => is,
        _ => {
            return Err(
                ": exactly one of exact, prefix, suffix, regex, contains, present is needed"
                    .to_owned(),
            );
        }
    };
    if let HeaderIs::Regex(text) = &is
        && let Err(error) = check_regex(text)
    {
        return Err(format!(".regex: {error}"));
    }
    Ok((name, is))
}

fn key(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

fn filled(field: &str, text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() {
        return Err(format!("{field} is empty"));
    }
    Ok(text.into())
}

/// A name that no header can have would make proxies refuse the whole configuration.
fn named(field: &str, name: &str) -> Result<Arc<str>, String> {
    header_name(name).map_err(|_| format!("{field}.name {name:?} is not the name of a header"))
}
