//! StatefulSet: pods with numbers, each with a name and a host name that stay

mod decide;
mod revision;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use self::decide::{Plan, REVISION, Step, Wish, ordinal};
use self::revision::{Revisions, revisions};
use crate::event::{Recorder, Severity};
use crate::key::{During, Failure, Key, gone_is_fine, has_code, has_reason, message};
use crate::owner::{self, Claim, claim, claimed, controller_reference};
use crate::pods::{Availability, availability, from_template, is_finished, is_ready};
use crate::queue::{Next, Queue, work};
use crate::watch::Store;

/// Labels by which Services and users find one pod.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, queue: Arc<Queue<Key>>) {
    let recorder = Recorder {
        client: client.clone(),
        component: "statefulset-controller",
    };
    work("statefulset", queue, |key| {
        reconcile(client.clone(), recorder.clone(), key)
    })
    .await;
}

/// Adds the StatefulSets that a change of a pod touches.
pub(crate) fn pod_changed(
    queue: &Queue<Key>,
    sets: &Store<StatefulSet>,
    before: Option<&Pod>,
    after: Option<&Pod>,
) {
    for pod in [before, after].into_iter().flatten() {
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(name) = owner::controller_named(pod, "StatefulSet") {
            queue.add(Key::new(namespace, name));
        } else if owner::controller_of(pod).is_none() {
            for set in sets.in_namespace(&namespace) {
                if is_member(&set, pod)
                    && claim(&*set, selector(&set).as_ref(), pod) == Claim::Adopt
                {
                    queue.add(Key::of(&*set));
                }
            }
        }
    }
}

fn selector(set: &StatefulSet) -> Option<kube::core::Selector> {
    owner::selector(&set.spec.as_ref()?.selector)
}

fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    ordinal(&set.name_any(), pod).is_some()
}

async fn reconcile(client: Client, recorder: Recorder, key: Key) -> Result<Next, Failure> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &key.namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let Some(set) = sets
        .get_opt(&key.name)
        .await
        .during(|| format!("read StatefulSet {key}"))?
    else {
        return Ok(Next::Wait);
    };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Wait);
    }
    if claims_volumes(&set) {
        let text =
            "volumeClaimTemplates: this cluster has no persistent volumes, so no pod is made";
        recorder
            .tell(&set, Severity::Warning, "FailedCreate", text)
            .await;
        return Ok(Next::Wait);
    }
    let mine = claimed(&set, selector(&set).as_ref(), &pods, |pod| {
        is_member(&set, pod)
    })
    .await?;
    let api: Api<ControllerRevision> = Api::namespaced(client, &key.namespace);
    let revisions = revisions(&set, &api, &mine).await?;
    let mut ordered: Vec<(i32, &Pod)> = mine
        .iter()
        .filter_map(|pod| Some((ordinal(&key.name, pod)?, pod)))
        .collect();
    ordered.sort_by_key(|(ordinal, _)| *ordinal);
    let (current, update) = (revisions.current.0.clone(), revisions.update.0.clone());
    let wish = Wish::new(&set, current, update);
    let now = Timestamp::now();
    let Plan { steps, again } = wish.plan(&ordered, now);
    let mut trouble = Ok(());
    for step in steps {
        trouble = act(&set, &pods, &recorder, &revisions, step).await;
        if trouble.is_err() {
            break;
        }
    }
    let status = status(&set, &ordered, &wish, now);
    if set.status.as_ref() != Some(&status) {
        let changed = StatefulSet {
            status: Some(status),
            ..set
        };
        let written = sets
            .replace_status(&key.name, &PostParams::default(), &changed)
            .await;
        gone_is_fine(written).during(|| format!("write the status of StatefulSet {key}"))?;
    }
    trouble.map(|()| {
        again.map_or(Next::Wait, |missing| {
            Next::After(missing + Duration::from_millis(10))
        })
    })
}

fn claims_volumes(set: &StatefulSet) -> bool {
    let spec = set.spec.as_ref();
    spec.and_then(|spec| spec.volume_claim_templates.as_ref())
        .is_some_and(|templates| !templates.is_empty())
}

async fn act(
    set: &StatefulSet,
    pods: &Api<Pod>,
    recorder: &Recorder,
    revisions: &Revisions,
    step: Step,
) -> Result<(), Failure> {
    match step {
        Step::Create { ordinal, updated } => {
            let (revision, template) = match updated {
                true => &revisions.update,
                false => &revisions.current,
            };
            let pod = member(set, ordinal, revision, template);
            let name = pod.name_any();
            let made = pods.create(&PostParams::default(), &pod).await;
            let text = match made {
                // The watch has not told of it yet, or somebody else's stands in its place.
                Err(error) if has_reason(&error, "AlreadyExists") => return Ok(()),
                Err(error)
                    if has_code(&error, 403)
                        && message(&error).contains("because it is being terminated") =>
                {
                    return Ok(());
                }
                Err(error) => {
                    let text = format!("create Pod {name} failed: {}", message(&error));
                    recorder
                        .tell(set, Severity::Warning, "FailedCreate", &text)
                        .await;
                    return Err(error).during(|| format!("create pod {name}"));
                }
                Ok(_) => format!(
                    "create Pod {name} in StatefulSet {} successful",
                    set.name_any()
                ),
            };
            recorder
                .tell(set, Severity::Normal, "SuccessfulCreate", &text)
                .await;
        }
        Step::Delete { name, uid } => {
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(uid),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match gone_is_fine(pods.delete(&name, &params).await) {
                // Another pod by that name: ours is gone.
                Err(error) if has_code(&error, 409) => {}
                deleted => drop(deleted.during(|| format!("delete pod {name}"))?),
            }
            let text = format!(
                "delete Pod {name} in StatefulSet {} successful",
                set.name_any()
            );
            recorder
                .tell(set, Severity::Normal, "SuccessfulDelete", &text)
                .await;
        }
    }
    Ok(())
}

/// The pod with this number.
fn member(set: &StatefulSet, ordinal: i32, revision: &str, template: &PodTemplateSpec) -> Pod {
    let name = format!("{}-{ordinal}", set.name_any());
    let namespace = set.namespace().unwrap_or_default();
    let mut pod = from_template(template, &namespace, &name, controller_reference(set));
    pod.metadata.generate_name = None;
    pod.labels_mut().extend([
        (POD_NAME.to_owned(), name.clone()),
        (POD_INDEX.to_owned(), ordinal.to_string()),
        (REVISION.to_owned(), revision.to_owned()),
    ]);
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = service.filter(|service| !service.is_empty());
    pod.metadata.name = Some(name);
    pod
}

fn status(
    set: &StatefulSet,
    pods: &[(i32, &Pod)],
    wish: &Wish,
    now: Timestamp,
) -> StatefulSetStatus {
    let count = |holds: &dyn Fn(&Pod) -> bool| {
        let found = pods.iter().filter(|(_, pod)| holds(pod));
        i32::try_from(found.count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| (count != 0).then_some(count);
    let of = |name: &str| {
        let name = name.to_owned();
        move |pod: &Pod| decide::revision(pod) == Some(&name)
    };
    let is_there = |pod: &Pod| !is_finished(pod);
    let replicas = count(&is_there);
    let updated = count(&of(&wish.update));
    let ready = count(&|pod| is_there(pod) && is_ready(pod));
    let available = count(&|pod| {
        is_there(pod) && availability(pod, wish.min_ready_seconds, now) == Availability::Yes
    });
    // An update is over when all pods are of its revision and ready: then it is the current one.
    let is_over = updated == wish.replicas && replicas == wish.replicas && ready == wish.replicas;
    let current = match is_over {
        true => wish.update.clone(),
        false => wish.current.clone(),
    };
    let before = set.status.clone().unwrap_or_default();
    StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(available),
        current_replicas: some(count(&of(&current))),
        updated_replicas: some(updated),
        current_revision: Some(current),
        update_revision: Some(wish.update.clone()),
        observed_generation: set.metadata.generation,
        collision_count: Some(before.collision_count.unwrap_or(0)),
        conditions: before.conditions,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "shop", "uid": "u", "generation": 2},
            "spec": {
                "replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {
                    "metadata": {"labels": {"app": "db"}, "annotations": {"a": "b"}},
                    "spec": {"containers": [{"name": "db"}]}
                }
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_has_its_number_in_name_host_name_and_labels() {
        let set = set();
        let template = set.spec.clone().unwrap().template;
        let pod = member(&set, 1, "db-x", &template);
        let spec = pod.spec.clone().unwrap();
        assert_eq!(pod.name_any(), "db-1");
        assert_eq!(pod.metadata.generate_name, None);
        assert_eq!(spec.hostname.as_deref(), Some("db-1"));
        assert_eq!(spec.subdomain.as_deref(), Some("db"));
        let labels = [
            ("app", "db"),
            (POD_NAME, "db-1"),
            (POD_INDEX, "1"),
            (REVISION, "db-x"),
        ];
        for (label, value) in labels {
            assert_eq!(pod.labels()[label], value, "{label}");
        }
        assert_eq!(pod.annotations()["a"], "b");
    }

    #[test]
    fn an_update_is_over_when_all_pods_are_of_it_and_ready() {
        let set = set();
        let template = set.spec.clone().unwrap().template;
        let wish = Wish::new(&set, "db-x".into(), "db-y".into());
        let pod = |ordinal, revision: &str| {
            let mut pod = member(&set, ordinal, revision, &template);
            let status =
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            pod.status = serde_json::from_value(status).unwrap();
            pod
        };
        let seen = |revisions: [&str; 2]| {
            let pods = [pod(0, revisions[0]), pod(1, revisions[1])];
            let status = status(
                &set,
                &[(0, &pods[0]), (1, &pods[1])],
                &wish,
                Timestamp::now(),
            );
            (
                status.ready_replicas,
                status.updated_replicas,
                status.current_replicas,
                status.current_revision.unwrap(),
            )
        };
        assert_eq!(
            seen(["db-x", "db-y"]),
            (Some(2), Some(1), Some(1), "db-x".into())
        );
        assert_eq!(
            seen(["db-y", "db-y"]),
            (Some(2), Some(2), Some(2), "db-y".into())
        );
    }
}
