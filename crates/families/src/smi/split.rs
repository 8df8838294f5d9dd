//! TrafficSplits.

use std::sync::Arc;

use api::split::v1alpha4::{TrafficSplitBackend, TrafficSplitSpec};
use model::{Backend, HttpMatch, Problem, Provenance, Split};

use super::group_matches;
use crate::index::{Index, Key};

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

fn split(
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
        problems.push(provenance.problem(message));
        return None;
    };
    let backends = backends(index, key, &spec.backends, &provenance, problems);
    if backends.iter().all(|backend| backend.weight == 0) {
        problems.push(provenance.problem("no backend has a weight: the service is unreachable"));
    }
    Some(Split {
        matches: matches(index, key, spec, &provenance, problems),
        provenance,
        namespace: key.0.clone(),
        apex,
        backends,
    })
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
        if !index
            .services
            .contains_key(&(key.0.clone(), service.clone()))
        {
            problems.push(provenance.problem("the service does not exist: it gets nothing"));
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
        let group = (key.0.clone(), reference.name.as_str().into());
        let group = index
            .route_groups
            .get(&group)
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
