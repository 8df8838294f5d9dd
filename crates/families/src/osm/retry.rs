//! Retry policies.

use std::time::Duration;

use api::policy::v1alpha1::{RetryPolicySpec, RetrySpec};
use model::{Problem, Provenance, RetryPolicy, RetryRule, ServiceAccount};

use crate::index::{Index, Key};

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
        match rule(key, spec, problems) {
            Ok(rule) => rules.push(rule),
            Err(problem) => problems.push(problem),
        }
    }
    rules
}

fn rule(key: &Key, spec: &RetrySpec, problems: &mut Vec<Problem>) -> Result<RetryRule, Problem> {
    let provenance = Provenance::new("Retry", &key.0, &key.1);
    let source = &spec.source;
    if source.kind != "ServiceAccount" {
        let kind = &source.kind;
        let message =
            format!("source.kind is {kind:?}, not \"ServiceAccount\": the object is ignored");
        return Err(provenance.problem(message));
    }
    let mut services = Vec::new();
    for destination in &spec.destinations {
        if destination.kind == "Service" {
            services.push((
                destination.namespace.as_str().into(),
                destination.name.as_str().into(),
            ));
        } else {
            let kind = &destination.kind;
            let message = format!("destinations: kind {kind:?} is not \"Service\": it is ignored");
            problems.push(provenance.problem(message));
        }
    }
    let policy = policy(&spec.retry_policy)
        .map_err(|message| provenance.problem(format!("{message}: the object is ignored")))?;
    Ok(RetryRule {
        source: ServiceAccount::new(source.namespace.as_str(), source.name.as_str()),
        services,
        policy,
        provenance,
    })
}

fn policy(spec: &RetryPolicySpec) -> Result<RetryPolicy, String> {
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
        conditions: spec.retry_on.as_str().into(),
        retries,
        per_try_timeout: duration("perTryTimeout", &spec.per_try_timeout)?,
        back_off: duration(
            "retryBackoffBaseInterval",
            &spec.retry_backoff_base_interval,
        )?,
    })
}
