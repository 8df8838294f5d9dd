//! Deployment: a ReplicaSet per pod template, rolled from the old ones to the new one

mod revision;
mod rolling;
mod status;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use self::revision::{
    REVISION, Sets, annotations, forgotten, new_set, next_revision, size_annotations, sort,
};
use self::rolling::{Size, Sizes, Step, next_step};
use self::status::{Happened, PROGRESSING, complete};
use crate::event::{Recorder, Severity};
use crate::key::{During, Failure, Key, gone_is_fine, has_reason, message};
use crate::owner::{self, Claim, adoption, claim};
use crate::pods::is_finished;
use crate::queue::{Next, Queue, work};
use crate::template::same;
use crate::watch::Store;

/// Runs the controller for ever.
pub(crate) async fn run(client: Client, queue: Arc<Queue<Key>>) {
    let recorder = Recorder {
        client: client.clone(),
        component: "deployment-controller",
    };
    work("deployment", queue, |key| {
        let pass = Pass {
            deployments: Api::namespaced(client.clone(), &key.namespace),
            sets: Api::namespaced(client.clone(), &key.namespace),
            pods: Api::namespaced(client.clone(), &key.namespace),
            recorder: recorder.clone(),
            key,
        };
        async move { pass.reconcile().await }
    })
    .await;
}

/// Adds the Deployments that a change of a ReplicaSet touches.
pub(crate) fn set_changed(
    queue: &Queue<Key>,
    deployments: &Store<Deployment>,
    before: Option<&ReplicaSet>,
    after: Option<&ReplicaSet>,
) {
    for set in [before, after].into_iter().flatten() {
        let namespace = set.namespace().unwrap_or_default();
        if let Some(name) = owner::controller_named(set, "Deployment") {
            queue.add(Key::new(namespace, name));
        } else if owner::controller_of(set).is_none() {
            for deployment in deployments.in_namespace(&namespace) {
                let selector = deployment
                    .spec
                    .as_ref()
                    .and_then(|spec| owner::selector(&spec.selector));
                if claim(&*deployment, selector.as_ref(), set) == Claim::Adopt {
                    queue.add(Key::of(&*deployment));
                }
            }
        }
    }
}

/// Adds the Deployment of a pod that went: with the strategy Recreate it may have waited for that.
pub(crate) fn pod_gone(queue: &Queue<Key>, sets: &Store<ReplicaSet>, pod: &Pod) {
    let namespace = pod.namespace().unwrap_or_default();
    let set = owner::controller_named(pod, "ReplicaSet")
        .and_then(|name| sets.get(&Key::new(&namespace, name)));
    if let Some(name) = set
        .as_deref()
        .and_then(|set| owner::controller_named(set, "Deployment"))
    {
        queue.add(Key::new(namespace, name));
    }
}

/// One look at one Deployment.
struct Pass {
    deployments: Api<Deployment>,
    sets: Api<ReplicaSet>,
    pods: Api<Pod>,
    recorder: Recorder,
    key: Key,
}

// === impl Pass ===

impl Pass {
    async fn reconcile(&self) -> Result<Next, Failure> {
        let key = &self.key;
        let read = self
            .deployments
            .get_opt(&key.name)
            .await
            .during(|| format!("read Deployment {key}"))?;
        let Some(deployment) = read else {
            return Ok(Next::Wait);
        };
        let Some(spec) = deployment.spec.clone() else {
            return Ok(Next::Wait);
        };
        let sizes = Sizes::of(&spec);
        let mut sets = sort(&spec, self.claimed(&deployment, &spec).await?);
        if deployment.metadata.deletion_timestamp.is_some() {
            return self
                .finish(deployment, sizes, &sets, Happened::Nothing)
                .await;
        }
        if spec.paused == Some(true) {
            self.resize_paused(&deployment, sizes, &mut sets).await?;
            return self
                .finish(deployment, sizes, &sets, Happened::Paused)
                .await;
        }
        let was_paused = progress_reason(&deployment) == Some("DeploymentPaused");
        let mut happened = if was_paused {
            Happened::Resumed
        } else {
            Happened::Nothing
        };
        let mut deployment = deployment;
        if sets.new.is_none() {
            match self
                .create(&mut deployment, &spec, sizes, &sets.old)
                .await?
            {
                Ok(set) => {
                    sets.new = Some(set);
                    happened = Happened::Created;
                }
                Err(text) => {
                    return self
                        .finish(deployment, sizes, &sets, Happened::Failed(text))
                        .await;
                }
            }
        }
        let deployment = self.number(deployment, sizes, &mut sets).await?;
        let old_pods_run = sizes.recreate && self.old_pods_run(&sets).await?;
        let step = next_step(
            sizes,
            sets.new.as_ref().map(size).unwrap_or_default(),
            &sets.old.iter().map(size).collect::<Vec<_>>(),
            old_pods_run,
        );
        self.resize(&deployment, sizes, &mut sets, &step).await?;
        if deployment
            .status
            .as_ref()
            .is_some_and(|status| complete(sizes, status))
        {
            self.forget(&sets.old, spec.revision_history_limit).await?;
        }
        self.finish(deployment, sizes, &sets, happened).await
    }

    /// The Deployment's ReplicaSets, after taking and letting go what the selector says.
    async fn claimed(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
    ) -> Result<Vec<ReplicaSet>, Failure> {
        let key = &self.key;
        let selector = owner::selector(&spec.selector);
        let all = self
            .sets
            .list(&ListParams::default())
            .await
            .during(|| format!("list ReplicaSets of Deployment {key}"))?;
        let mut mine = Vec::new();
        for set in all {
            let name = set.name_any();
            let patch = match claim(deployment, selector.as_ref(), &set) {
                Claim::Ignore => continue,
                Claim::Keep => {
                    mine.push(set);
                    continue;
                }
                Claim::Adopt => adoption(deployment, &set),
                Claim::Release => owner::release(&deployment.uid().unwrap_or_default(), &set),
            };
            let patched = self
                .sets
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            let patched = gone_is_fine(patched)
                .during(|| format!("take or release ReplicaSet {name} for Deployment {key}"))?;
            mine.extend(patched.filter(|set| owner::controller_named(set, "Deployment").is_some()));
        }
        Ok(mine)
    }

    /// Makes the new ReplicaSet; the inner error is the server's refusal, which belongs into the status.
    async fn create(
        &self,
        deployment: &mut Deployment,
        spec: &DeploymentSpec,
        sizes: Sizes,
        old: &[ReplicaSet],
    ) -> Result<Result<ReplicaSet, String>, Failure> {
        let wanted = new_set(deployment, spec, next_revision(old), sizes);
        let name = wanted.name_any();
        match self.sets.create(&PostParams::default(), &wanted).await {
            Ok(set) => Ok(Ok(set)),
            Err(error) if has_reason(&error, "AlreadyExists") => {
                let there = self
                    .sets
                    .get(&name)
                    .await
                    .during(|| format!("read ReplicaSet {name} of Deployment {}", self.key))?;
                let ours = owner::controller_of(&there)
                    .is_some_and(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
                let template = there.spec.as_ref().and_then(|spec| spec.template.as_ref());
                if ours && template.is_some_and(|template| same(template, &spec.template)) {
                    return Ok(Ok(there));
                }
                // The name is taken by another template: the next hash is another one.
                let status = deployment.status.get_or_insert_default();
                status.collision_count =
                    Some(status.collision_count.unwrap_or(0).saturating_add(1));
                *deployment = self.write_status(deployment).await?;
                Err(error).during(|| format!("create ReplicaSet {name} of Deployment {}", self.key))
            }
            Err(error @ kube::Error::Api(_)) => Ok(Err(message(&error))),
            Err(error) => {
                Err(error).during(|| format!("create ReplicaSet {name} of Deployment {}", self.key))
            }
        }
    }

    /// Brings the revision's number and the annotations to the new ReplicaSet and the number to the Deployment.
    async fn number(
        &self,
        deployment: Deployment,
        sizes: Sizes,
        sets: &mut Sets,
    ) -> Result<Deployment, Failure> {
        let Some(set) = &mut sets.new else {
            return Ok(deployment);
        };
        let number = next_revision(&sets.old).max(revision::revision(set));
        let wanted = annotations(&deployment, Some(set), number, sizes);
        let min_ready = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        let set_min_ready = set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0);
        if *set.annotations() != wanted || min_ready != set_min_ready {
            let patch = json!({"metadata": {"annotations": wanted}, "spec": {"minReadySeconds": min_ready}});
            *set = self.patch_set(&set.name_any(), patch).await?;
        }
        let number = number.to_string();
        if deployment.annotations().get(REVISION) == Some(&number) {
            return Ok(deployment);
        }
        // By the status subresource: a change of annotations by the main one would count as a new generation.
        let patch = Patch::Merge(json!({"metadata": {"annotations": {REVISION: number}}}));
        let patched = self
            .deployments
            .patch_status(&self.key.name, &PatchParams::default(), &patch)
            .await;
        patched.during(|| format!("write the revision of Deployment {}", self.key))
    }

    async fn resize(
        &self,
        deployment: &Deployment,
        sizes: Sizes,
        sets: &mut Sets,
        step: &Step,
    ) -> Result<(), Failure> {
        for (set, wanted) in sets.old.iter_mut().zip(&step.old) {
            self.resize_set(deployment, sizes, set, *wanted).await?;
        }
        match &mut sets.new {
            Some(set) => self.resize_set(deployment, sizes, set, step.new).await,
            None => Ok(()),
        }
    }

    /// A paused Deployment rolls nothing, but its newest ReplicaSet follows its size if it is the only one with pods.
    async fn resize_paused(
        &self,
        deployment: &Deployment,
        sizes: Sizes,
        sets: &mut Sets,
    ) -> Result<(), Failure> {
        let mut with_pods: Vec<&mut ReplicaSet> = sets
            .old
            .iter_mut()
            .chain(&mut sets.new)
            .filter(|set| size(set).wanted > 0)
            .collect();
        match with_pods.as_mut_slice() {
            [only] => {
                self.resize_set(deployment, sizes, only, sizes.desired)
                    .await
            }
            _ => Ok(()),
        }
    }

    async fn resize_set(
        &self,
        deployment: &Deployment,
        sizes: Sizes,
        set: &mut ReplicaSet,
        wanted: i32,
    ) -> Result<(), Failure> {
        let before = size(set).wanted;
        if before == wanted {
            return Ok(());
        }
        let name = set.name_any();
        let noted = serde_json::Map::from_iter(
            size_annotations(sizes).map(|(key, value)| (key, value.into())),
        );
        *set = self
            .patch_set(
                &name,
                json!({"metadata": {"annotations": noted}, "spec": {"replicas": wanted}}),
            )
            .await?;
        let direction = if wanted > before { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {name} to {wanted}");
        self.recorder
            .tell(deployment, Severity::Normal, "ScalingReplicaSet", &text)
            .await;
        Ok(())
    }

    async fn patch_set(&self, name: &str, patch: serde_json::Value) -> Result<ReplicaSet, Failure> {
        let patched = self
            .sets
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.during(|| format!("change ReplicaSet {name} of Deployment {}", self.key))
    }

    async fn old_pods_run(&self, sets: &Sets) -> Result<bool, Failure> {
        let pods = self
            .pods
            .list(&ListParams::default())
            .await
            .during(|| format!("list pods of Deployment {}", self.key))?;
        let old: Vec<String> = sets.old.iter().filter_map(ResourceExt::uid).collect();
        let runs = |pod: &Pod| {
            !is_finished(pod)
                && owner::controller_of(pod).is_some_and(|owner| old.contains(&owner.uid))
        };
        Ok(pods.iter().any(runs))
    }

    async fn forget(&self, old: &[ReplicaSet], limit: Option<i32>) -> Result<(), Failure> {
        for set in forgotten(old, limit) {
            let deleted = self
                .sets
                .delete(&set.name_any(), &DeleteParams::background())
                .await;
            gone_is_fine(deleted).during(|| {
                format!(
                    "delete old ReplicaSet {} of Deployment {}",
                    set.name_any(),
                    self.key
                )
            })?;
        }
        Ok(())
    }

    /// Writes the status if it changed.
    async fn finish(
        &self,
        mut deployment: Deployment,
        sizes: Sizes,
        sets: &Sets,
        happened: Happened,
    ) -> Result<Next, Failure> {
        let (status, again) = status::status(
            &deployment,
            sizes,
            sets.new.as_ref(),
            &sets.old,
            happened,
            Timestamp::now(),
        );
        if deployment.status.as_ref() != Some(&status) {
            deployment.status = Some(status);
            self.write_status(&deployment).await?;
        }
        Ok(again.map_or(Next::Wait, Next::After))
    }

    async fn write_status(&self, deployment: &Deployment) -> Result<Deployment, Failure> {
        let written = self
            .deployments
            .replace_status(&self.key.name, &PostParams::default(), deployment)
            .await;
        written.during(|| format!("write the status of Deployment {}", self.key))
    }
}

fn progress_reason(deployment: &Deployment) -> Option<&str> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == PROGRESSING)?
        .reason
        .as_deref()
}

fn size(set: &ReplicaSet) -> Size {
    let status = set.status.clone().unwrap_or_default();
    Size {
        wanted: set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1),
        available: status.available_replicas.unwrap_or(0),
    }
}
