//! Network filters from protobuf.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::network::{
    connection_limit::v3::ConnectionLimit as PbConnectionLimit,
    ext_authz::v3::ExtAuthz as PbExtAuthz, local_ratelimit::v3::LocalRateLimit as PbLocalRateLimit,
    ratelimit::v3::RateLimit as PbRateLimit, rbac::v3::Rbac as NetworkRbac,
};
use envoy_types::pb::google::protobuf::Any;

use super::authz;
use super::common::{bucket, call_timeout, grpc_service, runtime_flag, version};
use super::rate::service;
use crate::config::{At, Checked, each, extension, limit, rbac, refuse};
use crate::format::Template;
use crate::http::filters::counters::Counters;
use crate::network::NetworkFilter;
use crate::network::connection_limit::{self, ConnectionLimit};
use crate::network::ext_authz::{self, NetworkExtAuthz};
use crate::network::local_rate_limit::{self, NetworkLocalRateLimit};
use crate::network::rate_limit::{self, NetworkRateLimit};
use crate::stats::Family;

/// Envoy's default of a call to a rate limit service.
const TIMEOUT: Duration = Duration::from_millis(20);

pub(in crate::config) fn network_filter(any: &Any) -> Checked<NetworkFilter> {
    if let Some(message) = extension::<NetworkRbac>(any) {
        let message = message?;
        let rules = rbac::rules(message.rules.as_ref(), message.shadow_rules.as_ref())?;
        return Ok(NetworkFilter::Rbac(rules));
    }
    if let Some(message) = extension::<PbLocalRateLimit>(any) {
        return Ok(NetworkFilter::LocalRateLimit(local_rate_limit(&message?)?));
    }
    if let Some(message) = extension::<PbRateLimit>(any) {
        return Ok(NetworkFilter::RateLimit(Box::new(rate_limit(&message?)?)));
    }
    if let Some(message) = extension::<PbExtAuthz>(any) {
        return Ok(NetworkFilter::ExtAuthz(Box::new(ext_authz(&message?)?)));
    }
    if let Some(message) = extension::<PbConnectionLimit>(any) {
        return Ok(NetworkFilter::ConnectionLimit(connection_limit(&message?)?));
    }
    refuse(format!(
        "{:?} cannot stand before the last filter",
        any.type_url
    ))
}

fn family(filter: &str, stat_prefix: &str, label: &'static str) -> Checked<Family> {
    if stat_prefix.is_empty() {
        return refuse("a prefix is needed").at("stat_prefix");
    }
    Ok(Family::prefixed(filter, stat_prefix, label))
}

fn local_rate_limit(message: &PbLocalRateLimit) -> Checked<NetworkLocalRateLimit> {
    let limits = match &message.token_bucket {
        Some(message) => bucket(message).at("token_bucket")?,
        None => return refuse("a bucket is needed").at("token_bucket"),
    };
    Ok(NetworkLocalRateLimit {
        bucket: local_rate_limit::bucket(limits, &message.share_key),
        enabled: runtime_flag(message.runtime_enabled.as_ref(), true),
        counters: Counters::new(
            family(
                "local_rate_limit",
                &message.stat_prefix,
                "envoy_local_network_ratelimit_prefix",
            )?,
            local_rate_limit::NAMES,
        ),
    })
}

fn rate_limit(message: &PbRateLimit) -> Checked<NetworkRateLimit> {
    let timeout = call_timeout(message.timeout.as_ref(), TIMEOUT)?;
    if message.descriptors.is_empty() {
        return refuse("at least one descriptor is needed").at("descriptors");
    }
    let descriptors = each("descriptors", &message.descriptors, |descriptor| {
        if descriptor.limit.is_some() || descriptor.hits_addend.is_some() {
            return refuse("only entries are supported");
        }
        each("entries", &descriptor.entries, |entry| {
            if entry.key.is_empty() {
                return refuse("a key is needed").at("key");
            }
            let value = Template::parse(&entry.value).or_else(|reason| refuse(reason).at("value"));
            Ok((entry.key.clone(), value?))
        })
    })?;
    Ok(NetworkRateLimit {
        service: service(
            &message.domain,
            message.rate_limit_service.as_ref(),
            timeout,
        )?,
        descriptors,
        deny_on_failure: message.failure_mode_deny,
        counters: Counters::new(
            family("ratelimit", &message.stat_prefix, "envoy_ratelimit_prefix")?,
            rate_limit::NAMES,
        ),
    })
}

fn ext_authz(message: &PbExtAuthz) -> Checked<NetworkExtAuthz> {
    version(message.transport_api_version)?;
    let service = grpc_service(message.grpc_service.as_ref(), Some(authz::TIMEOUT));
    Ok(NetworkExtAuthz {
        service: service.at("grpc_service")?,
        failure_allowed: message.failure_mode_allow,
        certificate: message.include_peer_certificate,
        tls_session: message.include_tls_session,
        counters: Counters::new(
            family("ext_authz", &message.stat_prefix, "envoy_ext_authz_prefix")?,
            ext_authz::NAMES,
        ),
    })
}

fn connection_limit(message: &PbConnectionLimit) -> Checked<ConnectionLimit> {
    let most = match message.max_connections.map(|most| most.value) {
        Some(most) if most > 0 => most,
        _ => return refuse("at least one connection is needed").at("max_connections"),
    };
    Ok(ConnectionLimit {
        most,
        delay: limit(message.delay.as_ref(), None).at("delay")?,
        enabled: runtime_flag(message.runtime_enabled.as_ref(), true),
        open: std::sync::Arc::default(),
        counters: Counters::new(
            family(
                "connection_limit",
                &message.stat_prefix,
                "envoy_connection_limit_prefix",
            )?,
            connection_limit::NAMES,
        ),
    })
}
