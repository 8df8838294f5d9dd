//! TrafficSplits.

use std::sync::Arc;

use api::split::v1alpha4::{TrafficSplitBackend, TrafficSplitSpec};
use model::{Backend, HttpMatch, Problem, Provenance, Split};

use super::group_matches;
use crate::{
    core::ServiceFacts,
    index::{Index, Key},
};

/// Fractions of weights are kept to this precision.
const FRACTION: f64 = 1000.0;

/// Largest weight after scaling: the sum of a few thousand of them still fits Envoy's 32 bits.
const LARGEST_WEIGHT: f64 = 1_000_000.0;

/// The valid TrafficSplits of monitored namespaces.
pub(crate) fn splits(index: &Index, problems: &mut Vec<Problem>) -> Vec<Split> {
    let splits = index.monitored(&index.splits);
    splits
        .filter_map(|(key, spec)| split(index, key, spec, problems))
        .collect()
}

/// What one TrafficSplit spreads; `None` if nothing.
pub(crate) fn split(
    index: &Index,
    key: &Key,
    spec: &TrafficSplitSpec,
    problems: &mut Vec<Problem>,
) -> Option<Split> {
    let provenance = Provenance::new("TrafficSplit", &key.0, &key.1);
    let Some(apex) = service_name(&spec.service, &key.0) else {
        let message = format!(
            "service {:?} is not a service of namespace {}: the object is ignored",
            spec.service, key.0
        );
        problems.push(provenance.void(message));
        return None;
    };
    let facts = index.services.get(&(key.0.clone(), apex.clone()));
    if facts.is_none() {
        let message = format!("service {apex}: the Service does not exist: no effect yet");
        problems.push(provenance.problem(message));
    }
    let backends = backends(index, key, facts, &spec.backends, &provenance, problems);
    if backends.iter().all(|backend| backend.weight == 0) {
        problems.push(provenance.problem("all weights are zero: the service is unreachable"));
    }
    Some(Split {
        matches: matches(index, key, spec, &provenance, problems),
        provenance,
        namespace: key.0.clone(),
        apex,
        backends,
    })
}

/// Reports a backend that lacks ports of the apex: it is left out there (SPLIT-11).
fn report_ports(
    apex: Option<&ServiceFacts>,
    backend: &ServiceFacts,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) {
    let ports = apex.map_or(&[][..], |apex| &apex.ports);
    for port in ports {
        if !backend.ports.iter().any(|own| own.port == port.port) {
            let message = format!(
                "the Service has no port {}: it gets nothing there",
                port.port
            );
            problems.push(provenance.problem(message));
        }
    }
}

/// The service's own name out of `svc`, `svc.ns` or the full name, if it is in `namespace`.
fn service_name(name: &str, namespace: &str) -> Option<Arc<str>> {
    let full = format!("{namespace}.svc.{}", model::CLUSTER_DOMAIN);
    let (service, rest) = name
        .split_once('.')
        .map_or((name, None), |(s, rest)| (s, Some(rest)));
    let own = match rest {
        None => true,
        Some(rest) => full
            .strip_prefix(rest)
            .is_some_and(|tail| tail.is_empty() || tail.starts_with('.')),
    };
    (own && !service.is_empty()).then(|| service.into())
}

fn backends(
    index: &Index,
    key: &Key,
    apex: Option<&ServiceFacts>,
    backends: &[TrafficSplitBackend],
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Vec<Backend> {
    let whole = backends.iter().all(|backend| backend.weight.fract() == 0.0);
    let scale = if whole { 1.0 } else { FRACTION };
    let mut valid = Vec::new();
    for backend in backends {
        let provenance = provenance.rule(format!("backend {}", backend.service));
        let Some(service) = service_name(&backend.service, &key.0) else {
            problems.push(provenance.problem("not a service of this namespace: it gets nothing"));
            continue;
        };
        match index.services.get(&(key.0.clone(), service.clone())) {
            None => {
                problems.push(provenance.problem("the service does not exist: it gets nothing"))
            }
            Some(facts) => report_ports(apex, facts, &provenance, problems),
        }
        if !(backend.weight >= 0.0 && backend.weight.is_finite()) {
            let message = format!("weight {} is not valid: it gets nothing", backend.weight);
            problems.push(provenance.problem(message));
            continue;
        }
        valid.push(Backend {
            service,
            // In range by construction; `as` saturates.
            weight: (backend.weight * scale).min(LARGEST_WEIGHT).round() as u32,
        });
    }
    valid
}

/// Conditions of the split; a missing group adds none, so a split with only missing ones takes nothing.
fn matches(
    index: &Index,
    key: &Key,
    spec: &TrafficSplitSpec,
    provenance: &Provenance,
    problems: &mut Vec<Problem>,
) -> Option<Vec<HttpMatch>> {
    if spec.matches.is_empty() {
        return None;
    }
    let mut conditions = Vec::new();
    for reference in &spec.matches {
        let provenance = provenance.rule(format!("{}/{}", reference.kind, reference.name));
        let target: Key = (key.0.clone(), reference.name.as_str().into());
        let group = index
            .route_groups
            .get(&target)
            .filter(|_| reference.kind == "HTTPRouteGroup");
        let Some(group) = group else {
            problems.push(provenance.problem("E2005: the HTTPRouteGroup does not exist"));
            continue;
        };
        let grants = group_matches(group, &[], &provenance, problems);
        conditions.extend(grants.into_iter().map(|grant| grant.matches));
    }
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_17_forms_of_the_apex_name() {
        for (name, expected) in [
            ("web", Some("web")),
            ("web.shop", Some("web")),
            ("web.shop.svc", Some("web")),
            ("web.shop.svc.cluster", Some("web")),
            ("web.shop.svc.cluster.local", Some("web")),
            ("web.other", None),
            ("web.shop.svc.cluster.locals", None),
            ("web.sho", None),
            ("", None),
            (".shop", None),
        ] {
            assert_eq!(service_name(name, "shop").as_deref(), expected, "{name}");
        }
    }
}
