//! UpstreamTrafficSettings.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::policy::v1alpha1::{
    ConnectionSettings, HttpLocalRateLimit, LocalRateLimit, UpstreamTrafficSettingSpec,
};
use model::{
    CLUSTER_DOMAIN, ConnectionLimits, Problem, Provenance, RequestLimit, TokenBucket,
    UpstreamSetting,
};

use crate::{
    index::{Index, Key},
    object::Kind,
    status::{Outcome, Statuses},
};

/// Status of requests above a limit when nothing else is said (RFC 6585 §4).
const TOO_MANY_REQUESTS: u16 = 429;

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
    report_unsupported(spec, &provenance, problems);
    if let Some(other) = hosts.insert((&key.0, &spec.host), key) {
        hosts.insert((&key.0, &spec.host), other);
        return Err(provenance.conflict(format!(
            "host {} is that of UpstreamTrafficSetting {}/{} already",
            spec.host, other.0, other.1
        )));
    }
    let made = setting(key, spec, &provenance).map_err(|message| provenance.void(message))?;
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
    let mut path_rates = Vec::new();
    for route in &spec.http_routes {
        let local = route
            .rate_limit
            .as_ref()
            .and_then(|rate| rate.local.as_ref());
        if let Some(limit) = local {
            path_rates.push((route.path.as_str().into(), request_limit(limit)?));
        }
    }
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
        path_rates,
    }))
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
    let status = limit.response_status_code.unwrap_or(TOO_MANY_REQUESTS);
    if !(400..600).contains(&status) {
        return Err(format!(
            "{field}.responseStatusCode {status} is not from 400 to 599"
        ));
    }
    let headers = limit.response_headers_to_add.iter();
    Ok(RequestLimit {
        bucket,
        status,
        headers: headers
            .map(|header| (header.name.as_str().into(), header.value.as_str().into()))
            .collect::<Vec<(Arc<str>, Arc<str>)>>(),
    })
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

/// Names the fields that have no effect yet, lest anybody relies on them.
fn report_unsupported(
    spec: &UpstreamTrafficSettingSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) {
    let http = spec
        .connection_settings
        .as_ref()
        .and_then(|settings| settings.http.as_ref());
    let breaker = http.is_some_and(|http| http.circuit_breaking.is_some());
    let global = spec
        .rate_limit
        .as_ref()
        .is_some_and(|rate| rate.global.is_some());
    let route_global = spec.http_routes.iter().any(|route| {
        let rate = route.rate_limit.as_ref();
        rate.is_some_and(|rate| rate.global.is_some())
    });
    for (set, field) in [
        (breaker, "connectionSettings.http.circuitBreaking"),
        (global, "rateLimit.global"),
        (route_global, "httpRoutes.rateLimit.global"),
    ] {
        if set {
            problems.push(provenance.problem(format!("{field} is not supported yet: no effect")));
        }
    }
}
