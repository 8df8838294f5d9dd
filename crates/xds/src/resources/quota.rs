//! Rate limit services: the filters that ask them, and what is counted of connections and requests.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{ApiVersion, GrpcService, grpc_service},
            ratelimit::v3::RateLimitServiceConfig,
            route::v3::{
                HeaderMatcher, RateLimit,
                header_matcher::HeaderMatchSpecifier,
                rate_limit::{Action, action},
            },
        },
        extensions::{
            common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
            filters::{
                http::ratelimit::v3::{
                    RateLimit as RequestFilter, rate_limit::XRateLimitHeadersRfcVersion,
                },
                network::ratelimit::v3::RateLimit as ConnectionFilter,
            },
        },
        r#type::{
            matcher::v3::{StringMatcher, string_matcher::MatchPattern},
            v3::HttpStatus,
        },
    },
    google::protobuf::{Any, BoolValue},
};
use model::{ConnectionQuota, Counted, DescriptorEntry, HeaderIs, QuotaService, RequestQuota};

use super::build;

/// Name of the first filter for requests.
const REQUESTS: &str = "envoy.filters.http.ratelimit";
/// Name of the filter for connections.
pub(super) const CONNECTIONS: &str = "envoy.filters.network.ratelimit";

/// The filter that asks about connections.
pub(super) fn connection_filter(stat_prefix: &str, quota: &ConnectionQuota) -> Any {
    let entry = |(key, value): &(Arc<str>, Arc<str>)| Entry {
        key: key.to_string(),
        value: value.to_string(),
    };
    let descriptors = quota.descriptors.iter().map(|entries| RateLimitDescriptor {
        entries: entries.iter().map(entry).collect(),
        ..Default::default()
    });
    build::any(&ConnectionFilter {
        stat_prefix: stat_prefix.to_owned(),
        domain: quota.service.domain.to_string(),
        descriptors: descriptors.collect(),
        timeout: Some(build::duration(quota.service.timeout)),
        failure_mode_deny: !quota.service.fail_open,
        rate_limit_service: service(&quota.service),
    })
}

/// Name of a stage's filter: each has its own.
pub(super) fn request_filter_name(stage: u32) -> String {
    match stage {
        0 => REQUESTS.to_owned(),
        later => format!("{REQUESTS}.{later}"),
    }
}

/// The filter that asks about requests: those that routes describe for this stage.
pub(super) fn request_filter(stage: u32, quota: &RequestQuota) -> Any {
    let told = if quota.told {
        XRateLimitHeadersRfcVersion::DraftVersion03
    } else {
        XRateLimitHeadersRfcVersion::Off
    };
    build::any(&RequestFilter {
        domain: quota.service.domain.to_string(),
        stage,
        timeout: Some(build::duration(quota.service.timeout)),
        failure_mode_deny: !quota.service.fail_open,
        rate_limit_service: service(&quota.service),
        enable_x_ratelimit_headers: told.into(),
        rate_limited_status: Some(HttpStatus {
            code: quota.status.into(),
        }),
        ..Default::default()
    })
}

/// What of requests is counted, as a host or route says it.
pub(super) fn actions(counted: &[Counted]) -> Vec<RateLimit> {
    let one = |counted: &Counted| RateLimit {
        stage: build::number(counted.quota),
        actions: counted
            .descriptor
            .iter()
            .map(|entry| Action {
                action_specifier: Some(specifier(entry)),
            })
            .collect(),
        ..Default::default()
    };
    counted.iter().map(one).collect()
}

fn service(service: &QuotaService) -> Option<RateLimitServiceConfig> {
    Some(RateLimitServiceConfig {
        grpc_service: Some(GrpcService {
            timeout: Some(build::duration(service.timeout)),
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
                grpc_service::EnvoyGrpc {
                    cluster_name: service.cluster(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
        transport_api_version: ApiVersion::V3.into(),
    })
}

fn specifier(entry: &DescriptorEntry) -> action::ActionSpecifier {
    let text = |key: &Option<Arc<str>>| key.as_deref().unwrap_or_default().to_owned();
    match entry {
        DescriptorEntry::Fixed { key, value } => {
            action::ActionSpecifier::GenericKey(action::GenericKey {
                descriptor_key: text(key),
                descriptor_value: value.to_string(),
                ..Default::default()
            })
        }
        DescriptorEntry::RemoteAddress => {
            action::ActionSpecifier::RemoteAddress(action::RemoteAddress {})
        }
        DescriptorEntry::Header { key, name } => {
            action::ActionSpecifier::RequestHeaders(action::RequestHeaders {
                header_name: name.to_string(),
                descriptor_key: key.to_string(),
                skip_if_absent: false,
            })
        }
        DescriptorEntry::HeaderMatch {
            key,
            value,
            expected,
            headers,
        } => action::ActionSpecifier::HeaderValueMatch(action::HeaderValueMatch {
            descriptor_key: text(key),
            descriptor_value: value.to_string(),
            expect_match: Some(BoolValue { value: *expected }),
            headers: headers.iter().map(|(name, is)| header(name, is)).collect(),
            ..Default::default()
        }),
    }
}

fn header(name: &str, is: &HeaderIs) -> HeaderMatcher {
    let pattern = |pattern| {
        HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case: false,
            match_pattern: Some(pattern),
        })
    };
    let specifier = match is {
        HeaderIs::Exact(text) => pattern(MatchPattern::Exact(text.to_string())),
        HeaderIs::Prefix(text) => pattern(MatchPattern::Prefix(text.to_string())),
        HeaderIs::Suffix(text) => pattern(MatchPattern::Suffix(text.to_string())),
        HeaderIs::Contains(text) => pattern(MatchPattern::Contains(text.to_string())),
        HeaderIs::Regex(text) => pattern(MatchPattern::SafeRegex(build::regex(text))),
        HeaderIs::Present(present) => HeaderMatchSpecifier::PresentMatch(*present),
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}
