//! What controllers ask of pods: active, ready, available, and a pod made from a template

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::ObjectMeta;

/// Neither finished nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// All its containers ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Since when the pod is ready; `None` if it is not.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(
        ready
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    )
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Whether the pod was ready for long enough, or else from when on it will have been.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    match ready_since(pod) {
        None => Availability::No,
        Some(_) if min_ready_seconds <= 0 => Availability::Yes,
        Some(since) => {
            let missing =
                SignedDuration::from_secs(min_ready_seconds.into()) - now.duration_since(since);
            if missing.is_positive() {
                Availability::In(missing.unsigned_abs())
            } else {
                Availability::Yes
            }
        }
    }
}

/// Answer of [`availability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Yes,
    No,
    /// Ready, but only after this time for long enough.
    In(std::time::Duration),
}

/// A new pod of a controller; the API server completes the name.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    name_prefix: &str,
    owner: OwnerReference,
) -> Pod {
    let of = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{name_prefix}-")),
        namespace: Some(namespace.to_owned()),
        labels: of.labels,
        annotations: of.annotations,
        finalizers: of.finalizers,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Pod {
        metadata,
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pod_is_available_when_it_was_ready_for_min_ready_seconds() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let cases = [
            ("True", 0, Availability::Yes),
            ("True", 60, Availability::Yes),
            ("True", 61, Availability::In(Duration::from_secs(1))),
            ("False", 0, Availability::No),
        ];
        for (status, min_ready, wanted) in cases {
            let condition = serde_json::json!({"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let pod: Pod = serde_json::from_value(
                serde_json::json!({"metadata": {}, "status": {"conditions": [condition]}}),
            )
            .unwrap();
            assert_eq!(
                availability(&pod, min_ready, now),
                wanted,
                "{status} {min_ready}"
            );
        }
    }
}
