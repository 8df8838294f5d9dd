//! UpstreamTrafficSettings.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::policy::v1alpha1::{
    ConnectionSettings, HttpLocalRateLimit, LocalRateLimit, UpstreamTrafficSettingSpec,
};
use model::{
    CLUSTER_DOMAIN, ConnectionLimits, ConnectionQuota, Descriptor, PathLimit, Problem, Provenance,
    RequestLimit, RequestQuota, TokenBucket, UpstreamSetting,
};

use super::{breaker::breaker, quota};
use crate::{
    index::{Index, Key},
    object::Kind,
    smi::header_name,
    status::{Outcome, Statuses},
};

/// Status of requests above a limit when nothing else is said (RFC 6585 §4).
pub(crate) const TOO_MANY_REQUESTS: u16 = 429;

/// The settings of services. The outcome of each object is told in its status.
pub(crate) fn upstream_settings(
    index: &Index,
    problems: &mut Vec<Problem>,
    statuses: &mut Statuses,
) -> Vec<UpstreamSetting> {
    let mut settings = Vec::new();
    let mut hosts: BTreeMap<(&str, &str), &Key> = BTreeMap::new();
    for (key, spec) in index.monitored(&index.upstream_settings) {
        let outcome = match upstream_object(index, key, spec, &mut hosts, problems) {
            Ok(made) => {
                settings.extend(made);
                Outcome::Committed
            }
            Err(problem) => {
                let outcome = Outcome::without_effect(&problem);
                problems.push(problem);
                outcome
            }
        };
        statuses.insert((Kind::UpstreamTrafficSetting, key.clone()), outcome);
    }
    settings
}

/// The limits of the setting that an Egress refers to.
pub(crate) fn egress_limits(spec: &UpstreamTrafficSettingSpec) -> Result<ConnectionLimits, String> {
    connections(spec.connection_settings.as_ref())
}

/// What one object sets; `None` for a host that is no service of its namespace, which an Egress may refer to.
pub(crate) fn upstream_object<'a>(
    index: &Index,
    key: &'a Key,
    spec: &'a UpstreamTrafficSettingSpec,
    hosts: &mut BTreeMap<(&'a str, &'a str), &'a Key>,
    problems: &mut Vec<Problem>,
) -> Result<Option<UpstreamSetting>, Problem> {
    let provenance = Provenance::new("UpstreamTrafficSetting", &key.0, &key.1);
    if let Some(other) = hosts.insert((&key.0, &spec.host), key) {
        hosts.insert((&key.0, &spec.host), other);
        return Err(provenance.conflict(format!(
            "host {} is that of UpstreamTrafficSetting {}/{} already",
            spec.host, other.0, other.1
        )));
    }
    let made = setting(key, spec, &provenance).map_err(|message| provenance.void(message))?;
    report_breaker(index, spec, &provenance, problems);
    let host = &spec.host;
    match &made {
        Some(made)
            if !index
                .services
                .contains_key(&(key.0.clone(), made.service.clone())) =>
        {
            let message = format!("host {host}: the Service does not exist: no effect yet");
            problems.push(provenance.problem(message));
        }
        None if !is_referred_to(index, key) => {
            let message = format!(
                "host {host} is no Service of namespace {}, and no Egress refers to the object: no effect",
                key.0
            );
            problems.push(provenance.void(message));
        }
        _ => {}
    }
    Ok(made)
}

/// Stock Envoys know no circuit that breaks by results. Pods may choose another class than the mesh's: then it works.
fn report_breaker(
    index: &Index,
    spec: &UpstreamTrafficSettingSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) {
    let config = index.mesh_config.as_ref();
    let is_envoy = config.is_some_and(|config| config.sidecar.sidecar_class == "envoy");
    let http = spec
        .connection_settings
        .as_ref()
        .and_then(|settings| settings.http.as_ref());
    if is_envoy && http.is_some_and(|http| http.circuit_breaking.is_some()) {
        problems.push(provenance.problem(
            "connectionSettings.http.circuitBreaking: no effect in sidecars of class envoy",
        ));
    }
}

/// Whether an Egress of the namespace names the setting.
fn is_referred_to(index: &Index, key: &Key) -> bool {
    let mut egresses = index.monitored(&index.egresses);
    egresses.any(|(other, egress)| {
        let mut references = egress.matches.iter();
        other.0 == key.0
            && references
                .any(|entry| entry.kind == "UpstreamTrafficSetting" && *entry.name == *key.1)
    })
}

fn setting(
    key: &Key,
    spec: &UpstreamTrafficSettingSpec,
    provenance: &Provenance,
) -> Result<Option<UpstreamSetting>, String> {
    let connections = connections(spec.connection_settings.as_ref())?;
    let suffix = format!(".{}.svc.{CLUSTER_DOMAIN}", key.0);
    let Some(service) = spec.host.strip_suffix(&suffix) else {
        return Ok(None);
    };
    let local = spec
        .rate_limit
        .as_ref()
        .and_then(|rate| rate.local.as_ref());
    let Quotas {
        connections: connection_quota,
        requests: request_quota,
        counted,
    } = quotas(spec)?;
    let paths = paths(spec, request_quota.is_some())?;
    Ok(Some(UpstreamSetting {
        provenance: provenance.clone(),
        namespace: key.0.clone(),
        service: service.into(),
        connections,
        connection_rate: connection_rate(local)?,
        request_rate: local
            .and_then(|local| local.http.as_ref())
            .map(request_limit)
            .transpose()?,
        connection_quota,
        request_quota,
        counted,
        paths,
    }))
}

/// What rate limit services count of a service's traffic.
#[derive(Default)]
struct Quotas {
    connections: Option<ConnectionQuota>,
    requests: Option<RequestQuota>,
    counted: Vec<Descriptor>,
}

fn quotas(spec: &UpstreamTrafficSettingSpec) -> Result<Quotas, String> {
    let global = spec
        .rate_limit
        .as_ref()
        .and_then(|rate| rate.global.as_ref());
    let Some(global) = global else {
        return Ok(Quotas::default());
    };
    let http = global.http.as_ref().map(quota::requests).transpose()?;
    let (requests, counted) = http.unzip();
    Ok(Quotas {
        connections: global.tcp.as_ref().map(quota::connections).transpose()?,
        requests,
        counted: counted.unwrap_or_default(),
    })
}

fn paths(spec: &UpstreamTrafficSettingSpec, has_quota: bool) -> Result<Vec<PathLimit>, String> {
    let mut paths = Vec::new();
    for (index, route) in spec.http_routes.iter().enumerate() {
        let Some(limits) = &route.rate_limit else {
            continue;
        };
        let field = format!("httpRoutes[{index}].rateLimit.global");
        let counted = match &limits.global {
            Some(_) if !has_quota => {
                return Err(format!(
                    "{field} needs rateLimit.global.http, which names the service"
                ));
            }
            Some(global) => quota::descriptors(&field, &global.descriptors)?,
            None => Vec::new(),
        };
        let rate = limits.local.as_ref().map(request_limit).transpose()?;
        if rate.is_some() || !counted.is_empty() {
            paths.push(PathLimit {
                path: route.path.as_str().into(),
                rate,
                counted,
            });
        }
    }
    Ok(paths)
}

fn connections(settings: Option<&ConnectionSettings>) -> Result<ConnectionLimits, String> {
    let mut limits = ConnectionLimits::default();
    let Some(settings) = settings else {
        return Ok(limits);
    };
    let number = |value: Option<u64>| value.map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    if let Some(tcp) = &settings.tcp {
        limits.connections = number(tcp.max_connections);
        limits.connect_timeout = match tcp.connect_timeout.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                api::duration::parse(text)
                    .map_err(|error| format!("connectionSettings.tcp.connectTimeout: {error}"))?,
            ),
        };
    }
    if let Some(http) = &settings.http {
        limits.requests = number(http.max_requests);
        limits.pending_requests = number(http.max_pending_requests);
        limits.retries = number(http.max_retries);
        // 0 means no limit, as in Envoy.
        limits.requests_per_connection =
            number(http.max_requests_per_connection).filter(|limit| *limit > 0);
        if let Some(spec) = &http.circuit_breaking {
            limits.breaker = breaker(spec)?;
        }
    }
    Ok(limits)
}

fn connection_rate(local: Option<&LocalRateLimit>) -> Result<Option<TokenBucket>, String> {
    let Some(tcp) = local.and_then(|local| local.tcp.as_ref()) else {
        return Ok(None);
    };
    let field = "rateLimit.local.tcp";
    bucket(field, "connections", tcp.connections, &tcp.unit, tcp.burst).map(Some)
}

fn request_limit(limit: &HttpLocalRateLimit) -> Result<RequestLimit, String> {
    let field = "rateLimit.local.http";
    let bucket = bucket(field, "requests", limit.requests, &limit.unit, limit.burst)?;
    let status = status(
        field,
        limit.response_status_code.unwrap_or(TOO_MANY_REQUESTS),
    )?;
    let mut headers: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for header in &limit.response_headers_to_add {
        // What no header can have would make proxies refuse the whole configuration.
        let field = format!("{field}.responseHeadersToAdd");
        let name = header_name(&header.name)
            .map_err(|_| format!("{field}: {:?} is not the name of a header", header.name))?;
        if header.value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(format!(
                "{field}: {:?} is not the value of a header",
                header.value
            ));
        }
        headers.push((name, header.value.as_str().into()));
    }
    Ok(RequestLimit {
        bucket,
        status,
        headers,
    })
}

/// Statuses that Envoy knows (`envoy.type.v3.StatusCode`) of those that a limit may answer with. With any other it
/// would refuse the whole configuration.
const STATUSES: [std::ops::RangeInclusive<u16>; 6] = [
    400..=417,
    421..=424,
    426..=426,
    428..=429,
    431..=431,
    500..=511,
];

pub(crate) fn status(field: &str, status: u16) -> Result<u16, String> {
    if !(400..600).contains(&status) {
        return Err(format!(
            "{field}.responseStatusCode {status} is not from 400 to 599"
        ));
    }
    if status == 509 || !STATUSES.iter().any(|known| known.contains(&status)) {
        return Err(format!(
            "{field}.responseStatusCode {status} is not a status that proxies know"
        ));
    }
    Ok(status)
}

fn bucket(
    field: &str,
    what: &str,
    amount: Option<u64>,
    unit: &str,
    burst: Option<i64>,
) -> Result<TokenBucket, String> {
    let amount = amount.filter(|amount| *amount > 0);
    let amount = amount.ok_or_else(|| format!("{field}.{what} must be at least 1"))?;
    let interval = match unit {
        "second" => Duration::from_secs(1),
        "minute" => Duration::from_secs(60),
        "hour" => Duration::from_secs(3600),
        other => {
            return Err(format!(
                "{field}.unit {other:?} is not one of second, minute, hour"
            ));
        }
    };
    let burst = u64::try_from(burst.unwrap_or(0))
        .map_err(|_| format!("{field}.burst must not be negative"))?;
    let bounded = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(TokenBucket {
        capacity: bounded(amount.saturating_add(burst)),
        fill: bounded(amount),
        interval,
    })
}
