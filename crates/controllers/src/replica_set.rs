//! ReplicaSet: as many active pods of the template as wanted

mod decide;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use self::decide::{Step, step};
use crate::event::{Recorder, Severity};
use crate::key::{During, Failure, Key, gone_is_fine, has_code, message};
use crate::owner::{self, Claim, claim, claimed, controller_reference};
use crate::pods::{Availability, availability, from_template, is_active, is_finished, is_ready};
use crate::queue::{Next, Queue, work};
use crate::watch::Store;

/// Pods made at once in the first round; doubles with each round without a failure, so that a refusal costs one call.
const FIRST_BATCH: usize = 1;
/// Pods made or deleted in one pass.
const BURST: usize = 500;

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, queue: Arc<Queue<Key>>) {
    let recorder = Recorder {
        client: client.clone(),
        component: "replicaset-controller",
    };
    work("replicaset", queue, |key| {
        reconcile(client.clone(), recorder.clone(), key)
    })
    .await;
}

/// Adds the ReplicaSets that a change of a pod touches.
pub(crate) fn pod_changed(
    queue: &Queue<Key>,
    sets: &Store<ReplicaSet>,
    before: Option<&Pod>,
    after: Option<&Pod>,
) {
    for pod in [before, after].into_iter().flatten() {
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(name) = owner::controller_named(pod, "ReplicaSet") {
            queue.add(Key::new(namespace, name));
        } else if owner::controller_of(pod).is_none() && !pod.labels().is_empty() {
            for set in sets.in_namespace(&namespace) {
                let selector = set
                    .spec
                    .as_ref()
                    .and_then(|spec| owner::selector(&spec.selector));
                if claim(&*set, selector.as_ref(), pod) == Claim::Adopt {
                    queue.add(Key::of(&*set));
                }
            }
        }
    }
}

async fn reconcile(client: Client, recorder: Recorder, key: Key) -> Result<Next, Failure> {
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &key.namespace);
    let pods: Api<Pod> = Api::namespaced(client, &key.namespace);
    let Some(set) = sets
        .get_opt(&key.name)
        .await
        .during(|| format!("read ReplicaSet {key}"))?
    else {
        return Ok(Next::Wait);
    };
    let selector = set
        .spec
        .as_ref()
        .and_then(|spec| owner::selector(&spec.selector));
    let mine = claimed(&set, selector.as_ref(), &pods, |pod| !is_finished(pod)).await?;
    let mut trouble = Ok(());
    let mut refusal = None;
    if set.metadata.deletion_timestamp.is_none() {
        let wanted = set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let (reason, result) = match step(wanted, &mine, BURST) {
            Step::Nothing => ("", Ok(())),
            Step::Create(count) => ("FailedCreate", create(&set, &pods, &recorder, count).await),
            Step::Delete(names) => ("FailedDelete", delete(&set, &pods, &recorder, names).await),
        };
        refusal = result
            .as_ref()
            .err()
            .map(|failure| (reason, message(&failure.source)));
        trouble = result;
    }
    let now = Timestamp::now();
    let (status, next) = status(&set, &mine, refusal, now);
    if set.status.as_ref() != Some(&status) {
        let changed = ReplicaSet {
            status: Some(status),
            spec: set.spec.clone(),
            metadata: set.metadata.clone(),
        };
        let written = sets
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await;
        gone_is_fine(written).during(|| format!("write the status of ReplicaSet {key}"))?;
    }
    trouble.map(|()| next)
}

async fn create(
    set: &ReplicaSet,
    pods: &Api<Pod>,
    recorder: &Recorder,
    count: usize,
) -> Result<(), Failure> {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return Ok(());
    };
    let namespace = set.namespace().unwrap_or_default();
    let pod = from_template(
        template,
        &namespace,
        &set.name_any(),
        controller_reference(set),
    );
    let mut missing = count;
    let mut batch = FIRST_BATCH;
    while missing > 0 {
        let round = batch.min(missing);
        let params = PostParams::default();
        let made = join_all((0..round).map(|_| pods.create(&params, &pod))).await;
        let mut failed = None;
        for result in made {
            match result {
                Ok(pod) => {
                    recorder
                        .tell(
                            set,
                            Severity::Normal,
                            "SuccessfulCreate",
                            &format!("Created pod: {}", pod.name_any()),
                        )
                        .await;
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            // Nothing may be made in a namespace that goes; the set itself goes with it.
            if has_code(&error, 403) && message(&error).contains("because it is being terminated") {
                return Ok(());
            }
            recorder
                .tell(
                    set,
                    Severity::Warning,
                    "FailedCreate",
                    &format!("Error creating: {}", message(&error)),
                )
                .await;
            return Err(error).during(|| format!("create a pod of ReplicaSet {}", Key::of(set)));
        }
        missing -= round;
        batch *= 2;
    }
    Ok(())
}

async fn delete(
    set: &ReplicaSet,
    pods: &Api<Pod>,
    recorder: &Recorder,
    victims: Vec<(String, String)>,
) -> Result<(), Failure> {
    let deletions = victims.into_iter().map(|(name, uid)| {
        let preconditions = Preconditions {
            uid: Some(uid),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        async move {
            let deleted = gone_is_fine(pods.delete(&name, &params).await);
            (name, deleted)
        }
    });
    for (name, result) in join_all(deletions).await {
        match result {
            Ok(_) => {
                recorder
                    .tell(
                        set,
                        Severity::Normal,
                        "SuccessfulDelete",
                        &format!("Deleted pod: {name}"),
                    )
                    .await
            }
            // Another pod by that name: ours is gone.
            Err(error) if has_code(&error, 409) => {}
            Err(error) => {
                return Err(error)
                    .during(|| format!("delete pod {name} of ReplicaSet {}", Key::of(set)));
            }
        }
    }
    Ok(())
}

fn status(
    set: &ReplicaSet,
    mine: &[Pod],
    refusal: Option<(&str, String)>,
    now: Timestamp,
) -> (ReplicaSetStatus, Next) {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template_labels =
        spec.and_then(|s| s.template.as_ref()?.metadata.as_ref()?.labels.as_ref());
    let active: Vec<&Pod> = mine.iter().filter(|pod| is_active(pod)).collect();
    let labelled = |pod: &&&Pod| {
        template_labels
            .is_none_or(|wanted| wanted.iter().all(|(k, v)| pod.labels().get(k) == Some(v)))
    };
    let available: Vec<Availability> = active
        .iter()
        .map(|pod| availability(pod, min_ready, now))
        .collect();
    let soonest = available
        .iter()
        .filter_map(|a| {
            if let Availability::In(missing) = a {
                Some(*missing)
            } else {
                None
            }
        })
        .min();
    let before = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some(count(active.iter().filter(labelled).count())),
        ready_replicas: some(count(active.iter().filter(|pod| is_ready(pod)).count())),
        available_replicas: some(count(
            available
                .iter()
                .filter(|a| **a == Availability::Yes)
                .count(),
        )),
        observed_generation: set.metadata.generation,
        conditions: conditions(before.conditions, refusal, now),
        terminating_replicas: None,
    };
    let next = soonest.map_or(Next::Wait, |missing| {
        Next::After(missing + Duration::from_millis(10))
    });
    (status, next)
}

fn conditions(
    before: Option<Vec<ReplicaSetCondition>>,
    refusal: Option<(&str, String)>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = before.unwrap_or_default();
    let at = conditions.iter().position(|c| c.type_ == "ReplicaFailure");
    match (refusal, at) {
        (None, Some(at)) => drop(conditions.remove(at)),
        (Some((reason, text)), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(text),
            last_transition_time: Some(Time(now)),
        }),
        _ => {}
    }
    (!conditions.is_empty()).then_some(conditions)
}

fn count(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

/// Kubernetes leaves zeros of optional counts out.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_counts_active_ready_available_and_fully_labelled_pods() {
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "rs", "generation": 3},
            "spec": {"replicas": 3, "minReadySeconds": 10, "selector": {}, "template": {"metadata": {"labels": {"app": "web"}}}},
        }))
        .unwrap();
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let pod = |labels: serde_json::Value, ready: Option<&str>| -> Pod {
            let conditions: Vec<_> = ready
                .iter()
                .map(|t| json!({"type": "Ready", "status": "True", "lastTransitionTime": t}))
                .collect();
            serde_json::from_value(
                json!({"metadata": {"labels": labels}, "status": {"conditions": conditions}}),
            )
            .unwrap()
        };
        let pods = [
            pod(json!({"app": "web"}), Some("2026-01-01T00:00:00Z")),
            pod(json!({"app": "web"}), Some("2026-01-01T00:00:55Z")),
            pod(json!({}), None),
        ];
        let (status, next) = status(&set, &pods, Some(("FailedCreate", "quota".to_owned())), now);
        let seen = (
            status.replicas,
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
        );
        assert_eq!(seen, (3, Some(2), Some(2), Some(1)));
        assert_eq!(next, Next::After(Duration::from_millis(5010)));
        assert_eq!(
            status.conditions.unwrap()[0].message.as_deref(),
            Some("quota")
        );
    }
}
