//! A Deployment's status and conditions, as `kubectl rollout status` reads them

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::rolling::Sizes;

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";

/// A deadline this long means none (Kubernetes' own convention).
const NO_DEADLINE: i32 = i32::MAX;

/// What happened in this pass that the condition `Progressing` tells.
pub(super) enum Happened {
    Nothing,
    Created,
    Paused,
    Resumed,
    /// The ReplicaSet could not be made, in the server's words.
    Failed(String),
}

/// The status by the ReplicaSets as they are, and when to look again although nothing changes.
pub(super) fn status(
    deployment: &Deployment,
    sizes: Sizes,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    happened: Happened,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let before = deployment.status.clone().unwrap_or_default();
    let mut status = counts(deployment, new, old, &before);
    let mut conditions = Conditions {
        list: before.conditions.clone().unwrap_or_default(),
        now,
    };

    let enough = status.available_replicas.unwrap_or(0) >= sizes.least_available();
    let (state, reason, text) = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    conditions.set(AVAILABLE, state, reason, text.to_owned());

    let again = progress(
        deployment,
        sizes,
        new,
        &before,
        &status,
        happened,
        &mut conditions,
    );

    match [new].into_iter().flatten().chain(old).find_map(failure) {
        Some(failed) => {
            let text = failed.message.clone().unwrap_or_default();
            conditions.set(
                FAILURE,
                &failed.status,
                failed.reason.as_deref().unwrap_or_default(),
                text,
            );
        }
        None => conditions
            .list
            .retain(|condition| condition.type_ != FAILURE),
    }
    status.conditions = Some(conditions.list);
    (status, again)
}

/// Whether the roll-out has reached its end.
pub(super) fn complete(sizes: Sizes, status: &DeploymentStatus) -> bool {
    let wanted = sizes.desired;
    let is = |count: Option<i32>| count.unwrap_or(0) == wanted;
    is(status.updated_replicas) && is(status.replicas) && is(status.available_replicas)
}

fn counts(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    before: &DeploymentStatus,
) -> DeploymentStatus {
    let all = || [new].into_iter().flatten().chain(old);
    let of = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let available: i32 = all()
        .map(|set| of(set).available_replicas.unwrap_or(0))
        .sum();
    let wanted: i32 = all()
        .map(|set| {
            set.spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1)
        })
        .sum();
    let some = |count: i32| (count > 0).then_some(count);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(all().map(|set| of(set).replicas).sum()),
        updated_replicas: some(new.map_or(0, |set| of(set).replicas)),
        ready_replicas: some(all().map(|set| of(set).ready_replicas.unwrap_or(0)).sum()),
        available_replicas: some(available),
        unavailable_replicas: some(wanted.saturating_sub(available)),
        collision_count: before.collision_count,
        conditions: None,
        terminating_replicas: None,
    }
}

fn progress(
    deployment: &Deployment,
    sizes: Sizes,
    new: Option<&ReplicaSet>,
    before: &DeploymentStatus,
    status: &DeploymentStatus,
    happened: Happened,
    conditions: &mut Conditions,
) -> Option<Duration> {
    let spec = deployment.spec.as_ref();
    let Some(deadline) = spec
        .and_then(|spec| spec.progress_deadline_seconds)
        .filter(|seconds| *seconds != NO_DEADLINE)
    else {
        conditions
            .list
            .retain(|condition| condition.type_ != PROGRESSING);
        return None;
    };
    let name = new.map_or_else(
        || format!("Deployment {:?}", deployment.name_any()),
        |set| format!("ReplicaSet {:?}", set.name_any()),
    );
    let quoted = new
        .map(|set| format!("{:?}", set.name_any()))
        .unwrap_or_default();
    match happened {
        Happened::Created => conditions.set(
            PROGRESSING,
            "True",
            "NewReplicaSetCreated",
            format!("Created new replica set {quoted}"),
        ),
        Happened::Failed(text) => {
            conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", text)
        }
        Happened::Paused => conditions.set(
            PROGRESSING,
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".to_owned(),
        ),
        Happened::Resumed => conditions.set(
            PROGRESSING,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".to_owned(),
        ),
        Happened::Nothing if new.is_some() && conditions.reason(PROGRESSING).is_none() => {
            conditions.set(
                PROGRESSING,
                "True",
                "FoundNewReplicaSet",
                format!("Found new replica set {quoted}"),
            );
        }
        Happened::Nothing => {}
    }
    if spec.is_some_and(|spec| spec.paused == Some(true)) {
        return None;
    }
    // A finished roll-out stays finished while pods come and go by scaling or by failing.
    if status.replicas == status.updated_replicas
        && conditions.reason(PROGRESSING) == Some("NewReplicaSetAvailable")
    {
        return None;
    }
    if complete(sizes, status) {
        conditions.set(
            PROGRESSING,
            "True",
            "NewReplicaSetAvailable",
            format!("{name} has successfully progressed."),
        );
        return None;
    }
    if moved(before, status) {
        conditions.touch(
            PROGRESSING,
            "True",
            "ReplicaSetUpdated",
            format!("{name} is progressing."),
        );
    }
    let left = conditions
        .updated(PROGRESSING)
        .map(|at| SignedDuration::from_secs(deadline.into()) - conditions.now.duration_since(at));
    match left {
        Some(left) if left.is_positive() => Some(left.unsigned_abs() + Duration::from_millis(100)),
        Some(_) if conditions.reason(PROGRESSING) != Some("ReplicaSetCreateError") => {
            conditions.set(
                PROGRESSING,
                "False",
                "ProgressDeadlineExceeded",
                format!("{name} has timed out progressing."),
            );
            None
        }
        _ => None,
    }
}

/// More new pods, fewer old ones, more that are ready or available.
fn moved(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(now.updated_replicas) > n(before.updated_replicas)
        || old(now) < old(before)
        || n(now.ready_replicas) > n(before.ready_replicas)
        || n(now.available_replicas) > n(before.available_replicas)
}

fn failure(set: &ReplicaSet) -> Option<&k8s_openapi::api::apps::v1::ReplicaSetCondition> {
    set.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == FAILURE)
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

// === impl Conditions ===

impl Conditions {
    fn find(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    fn reason(&self, kind: &str) -> Option<&str> {
        self.find(kind)?.reason.as_deref()
    }

    fn updated(&self, kind: &str) -> Option<Timestamp> {
        self.find(kind)?
            .last_update_time
            .as_ref()
            .map(|time| time.0)
    }

    /// Sets the condition unless state and reason are as before.
    fn set(&mut self, kind: &str, state: &str, reason: &str, text: String) {
        if self
            .find(kind)
            .is_none_or(|old| old.status != state || old.reason.as_deref() != Some(reason))
        {
            self.touch(kind, state, reason, text);
        }
    }

    /// Sets the condition and its time; the time of transition only if the state is another.
    fn touch(&mut self, kind: &str, state: &str, reason: &str, text: String) {
        let since = self
            .find(kind)
            .filter(|old| old.status == state)
            .and_then(|old| old.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(text),
            last_transition_time: since.or(Some(Time(self.now))),
            last_update_time: Some(Time(self.now)),
        };
        match self.list.iter_mut().find(|old| old.type_ == kind) {
            Some(old) => *old = condition,
            None => self.list.push(condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIZES: Sizes = Sizes {
        desired: 2,
        surge: 1,
        unavailable: 0,
        recreate: false,
    };

    fn now(minute: u8) -> Timestamp {
        format!("2026-01-01T00:{minute:02}:00Z").parse().unwrap()
    }

    fn deployment(status: DeploymentStatus) -> Deployment {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 600, "selector": {}, "template": {}},
        }))
        .unwrap();
        deployment.status = Some(status);
        deployment
    }

    fn set(replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web-x"},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available},
        }))
        .unwrap()
    }

    fn shown(status: &DeploymentStatus) -> String {
        let conditions = status.conditions.iter().flatten();
        let texts = conditions.map(|c| {
            format!(
                "{}={} {}",
                c.type_,
                c.status,
                c.reason.as_deref().unwrap_or_default()
            )
        });
        texts.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_roll_out_from_creation_to_its_end() {
        let (first, again) = status(
            &deployment(DeploymentStatus::default()),
            SIZES,
            Some(&set(0, 0)),
            &[],
            Happened::Created,
            now(0),
        );
        assert_eq!(
            shown(&first),
            "Available=False MinimumReplicasUnavailable; Progressing=True NewReplicaSetCreated"
        );
        assert!(again.is_some_and(|pause| pause > Duration::from_secs(599)));
        assert_eq!(first.observed_generation, Some(2));

        let (second, _) = status(
            &deployment(first),
            SIZES,
            Some(&set(2, 1)),
            &[],
            Happened::Nothing,
            now(1),
        );
        assert_eq!(
            shown(&second),
            "Available=False MinimumReplicasUnavailable; Progressing=True ReplicaSetUpdated"
        );
        assert_eq!(
            (second.replicas, second.unavailable_replicas),
            (Some(2), Some(1))
        );

        let (done, again) = status(
            &deployment(second),
            SIZES,
            Some(&set(2, 2)),
            &[],
            Happened::Nothing,
            now(2),
        );
        assert_eq!(
            shown(&done),
            "Available=True MinimumReplicasAvailable; Progressing=True NewReplicaSetAvailable"
        );
        assert_eq!(again, None);
        let text = done.conditions.as_ref().unwrap()[1]
            .message
            .clone()
            .unwrap();
        assert_eq!(text, "ReplicaSet \"web-x\" has successfully progressed.");
    }

    #[test]
    fn without_progress_the_deadline_passes() {
        let (first, _) = status(
            &deployment(DeploymentStatus::default()),
            SIZES,
            Some(&set(2, 0)),
            &[],
            Happened::Created,
            now(0),
        );
        let (waiting, again) = status(
            &deployment(first),
            SIZES,
            Some(&set(2, 0)),
            &[],
            Happened::Nothing,
            now(9),
        );
        assert!(again.is_some());
        let (late, again) = status(
            &deployment(waiting),
            SIZES,
            Some(&set(2, 0)),
            &[],
            Happened::Nothing,
            now(11),
        );
        assert_eq!(
            shown(&late),
            "Available=False MinimumReplicasUnavailable; Progressing=False ProgressDeadlineExceeded"
        );
        assert_eq!(again, None);
        let (mended, _) = status(
            &deployment(late),
            SIZES,
            Some(&set(2, 2)),
            &[],
            Happened::Nothing,
            now(12),
        );
        assert_eq!(
            shown(&mended),
            "Available=True MinimumReplicasAvailable; Progressing=True NewReplicaSetAvailable"
        );
    }

    #[test]
    fn a_replica_set_that_cannot_make_pods_shows() {
        let mut failing = set(0, 0);
        failing.status = serde_json::from_value(json!({"replicas": 0,
            "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]}))
        .unwrap();
        let (seen, _) = status(
            &deployment(DeploymentStatus::default()),
            SIZES,
            Some(&failing),
            &[],
            Happened::Created,
            now(0),
        );
        assert!(
            shown(&seen).ends_with("ReplicaFailure=True FailedCreate"),
            "{}",
            shown(&seen)
        );
    }
}
