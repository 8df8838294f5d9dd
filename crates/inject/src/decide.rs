//! Whether a pod gets a sidecar.

use std::collections::BTreeMap;

use api::labels::{IGNORE, METRICS, MONITORED_BY, SIDECAR_INJECTION};
use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::error::InjectError;
use crate::settings::Settings;

/// What happens to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets a sidecar.
    Inject,
    /// It stays as it is.
    Skip(Skipped),
}

/// Why a pod stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It uses the node's network, where interception would hit every process of the node.
    HostNetwork,
    /// Its namespace belongs to no mesh or to another one.
    NotMonitored,
    /// Its namespace is to be left alone.
    Ignored,
    /// Its namespace is Kubernetes' or the control plane's own.
    ProtectedNamespace,
    /// Neither pod nor namespace asks for a sidecar.
    NotRequested,
    /// Pod or namespace asks for none.
    Disabled,
}

/// Decides about one pod about to be created in this namespace.
pub fn decide(
    pod: &Pod,
    namespace: &Namespace,
    settings: &Settings,
) -> Result<Decision, InjectError> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
        return Ok(Decision::Skip(Skipped::HostNetwork));
    }
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    if matches!(name, "kube-system" | "kube-public") || name == settings.osm_namespace {
        return Ok(Decision::Skip(Skipped::ProtectedNamespace));
    }
    let label = |key: &str| {
        namespace
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(key))
    };
    if label(MONITORED_BY) != Some(&settings.mesh_name) {
        return Ok(Decision::Skip(Skipped::NotMonitored));
    }
    if label(IGNORE).is_some() {
        return Ok(Decision::Skip(Skipped::Ignored));
    }
    // Both are read before either counts: a typo in the namespace must not hide behind an annotated pod.
    let of_pod = requested(pod.metadata.annotations.as_ref())?;
    let of_namespace = requested(namespace.metadata.annotations.as_ref())?;
    Ok(match of_pod.or(of_namespace) {
        Some(true) => Decision::Inject,
        Some(false) => Decision::Skip(Skipped::Disabled),
        None => Decision::Skip(Skipped::NotRequested),
    })
}

/// True if injected pods of this namespace are to be scraped.
pub(crate) fn metrics(namespace: &Namespace) -> Result<bool, InjectError> {
    let value = namespace
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(METRICS));
    match value.map(String::as_str) {
        None | Some("") => Ok(false),
        Some(value) => switch(value).ok_or_else(|| InjectError::MetricsAnnotation {
            key: METRICS,
            value: value.to_owned(),
        }),
    }
}

fn requested(annotations: Option<&BTreeMap<String, String>>) -> Result<Option<bool>, InjectError> {
    let Some(value) = annotations.and_then(|annotations| annotations.get(SIDECAR_INJECTION)) else {
        return Ok(None);
    };
    match switch(value) {
        Some(wanted) => Ok(Some(wanted)),
        None => Err(InjectError::InjectionAnnotation {
            key: SIDECAR_INJECTION,
            value: value.clone(),
        }),
    }
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "enabled" | "yes" | "true" => Some(true),
        "disabled" | "no" | "false" => Some(false),
        _ => None,
    }
}
