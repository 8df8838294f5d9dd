//! Retry policies.

use std::time::Duration;

use api::policy::v1alpha1::{RetryPolicySpec, RetrySpec};
use model::{Problem, Provenance, RetryPolicy, RetryRule, ServiceAccount};

use crate::{
    index::{Index, Key},
    names::is_name,
};

/// The conditions that proxies know (Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// The valid Retry policies of monitored namespaces, unless the feature is off.
pub(crate) fn retry_rules(index: &Index, problems: &mut Vec<Problem>) -> Vec<RetryRule> {
    let flags = index
        .mesh_config
        .as_ref()
        .map(|config| &config.feature_flags);
    if !flags.is_some_and(|flags| flags.enable_retry_policy) {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for (key, spec) in index.monitored(&index.retries) {
        match retry_rule(index, key, spec, problems) {
            Ok(rule) => rules.push(rule),
            Err(problem) => problems.push(problem),
        }
    }
    rules
}

/// What one Retry sets.
pub(crate) fn retry_rule(
    index: &Index,
    key: &Key,
    spec: &RetrySpec,
    problems: &mut Vec<Problem>,
) -> Result<RetryRule, Problem> {
    let provenance = Provenance::new("Retry", &key.0, &key.1);
    let source = &spec.source;
    if source.kind != "ServiceAccount" {
        let kind = &source.kind;
        let message =
            format!("source.kind is {kind:?}, not \"ServiceAccount\": the object is ignored");
        return Err(provenance.void(message));
    }
    if !(is_name(&source.name) && is_name(&source.namespace)) {
        let message = "source cannot be the name of a ServiceAccount: the object is ignored";
        return Err(provenance.void(message));
    }
    if spec.destinations.is_empty() {
        return Err(provenance.void("destinations is empty: the object is ignored"));
    }
    let mut services = Vec::new();
    for destination in &spec.destinations {
        if destination.kind == "Service" {
            let service: Key = (
                destination.namespace.as_str().into(),
                destination.name.as_str().into(),
            );
            if !index.services.contains_key(&service) {
                let (namespace, name) = &service;
                let message = format!(
                    "destinations: Service {namespace}/{name} does not exist: no effect yet"
                );
                problems.push(provenance.problem(message));
            }
            services.push(service);
        } else {
            let kind = &destination.kind;
            let message = format!("destinations: kind {kind:?} is not \"Service\": it is ignored");
            problems.push(provenance.problem(message));
        }
    }
    let conditions = conditions(&spec.retry_policy.retry_on, &provenance, problems);
    let policy = policy(&spec.retry_policy, &conditions)
        .map_err(|message| provenance.void(format!("{message}: the object is ignored")))?;
    Ok(RetryRule {
        source: ServiceAccount::new(source.namespace.as_str(), source.name.as_str()),
        services,
        policy,
        provenance,
    })
}

/// The known conditions of a list: upstream passes on any word, and Envoy ignores those it does not know.
fn conditions(list: &str, provenance: &Provenance, problems: &mut Vec<Problem>) -> String {
    let words = list
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        words.partition(|word| CONDITIONS.contains(word));
    for word in unknown {
        let message = format!("retryPolicy.retryOn: {word:?} is no condition: it is ignored");
        problems.push(provenance.problem(message));
    }
    known.join(",")
}

fn policy(spec: &RetryPolicySpec, conditions: &str) -> Result<RetryPolicy, String> {
    if conditions.is_empty() {
        return Err("retryPolicy.retryOn names no condition".to_owned());
    }
    let duration = |field: &str, text: &str| -> Result<Option<Duration>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let parsed = api::duration::parse(text);
        let parsed = parsed.map_err(|error| format!("retryPolicy.{field}: {error}"))?;
        Ok(Some(parsed).filter(|duration| !duration.is_zero()))
    };
    let retries = u32::try_from(spec.num_retries).map_err(|_| {
        format!(
            "retryPolicy.numRetries {} must not be negative",
            spec.num_retries
        )
    })?;
    Ok(RetryPolicy {
        conditions: conditions.into(),
        retries,
        per_try_timeout: duration("perTryTimeout", &spec.per_try_timeout)?,
        back_off: duration(
            "retryBackoffBaseInterval",
            &spec.retry_backoff_base_interval,
        )?,
    })
}
