//! Revisions of a StatefulSet's template, kept as ControllerRevisions: a pod that is not yet to be updated comes back as
//! it was

use std::collections::HashSet;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::decide::revision;
use crate::key::{During, Failure, Key, gone_is_fine, has_reason};
use crate::owner::{controller_of, controller_reference};
use crate::template;

/// Revisions that are kept beside those in use, where the set does not say.
const HISTORY: i32 = 10;

/// The two templates that pods may be of.
pub(super) struct Revisions {
    /// Name of the one that pods below the partition have, and its template.
    pub current: (String, PodTemplateSpec),
    /// Of the set's template as it is.
    pub update: (String, PodTemplateSpec),
}

/// Finds the set's revisions, records the template as one if it is new, and forgets what is too old.
pub(super) async fn revisions(
    set: &StatefulSet,
    api: &Api<ControllerRevision>,
    pods: &[Pod],
) -> Result<Revisions, Failure> {
    let key = Key::of(set);
    let uid = set.uid();
    let all = api
        .list(&ListParams::default())
        .await
        .during(|| format!("list revisions of StatefulSet {key}"))?;
    let mut mine = all.items;
    mine.retain(|one| controller_of(one).is_some_and(|of| Some(&of.uid) == uid.as_ref()));
    mine.sort_by_key(|one| one.revision);
    let template = &set.spec.clone().unwrap_or_default().template;
    let name = format!("{}-{}", key.name, template::hash(template, 0));
    if mine.last().map(ResourceExt::name_any).as_ref() != Some(&name) {
        let number = mine
            .last()
            .map_or(1, |last| last.revision.saturating_add(1));
        record(set, api, &mine, &name, template, number).await?;
    }
    let before = set.status.as_ref().and_then(|s| s.current_revision.clone());
    let current = before.and_then(|current| {
        let found = mine.iter().find(|one| one.name_any() == current)?;
        Some((current, stored(found)?))
    });
    let update = (name, template.clone());
    let revisions = Revisions {
        current: current.unwrap_or_else(|| update.clone()),
        update,
    };
    forget(set, api, &mine, pods, &revisions).await?;
    Ok(revisions)
}

/// Writes a revision; one that was there before becomes the newest again.
async fn record(
    set: &StatefulSet,
    api: &Api<ControllerRevision>,
    mine: &[ControllerRevision],
    name: &str,
    template: &PodTemplateSpec,
    number: i64,
) -> Result<(), Failure> {
    let what = || format!("record revision {name} of StatefulSet {}", Key::of(set));
    if let Some(old) = mine.iter().find(|one| one.name_any() == name) {
        let mut again = old.clone();
        again.revision = number;
        let written = api.replace(name, &PostParams::default(), &again).await;
        return written.during(what).map(drop);
    }
    let made = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: template.metadata.as_ref().and_then(|of| of.labels.clone()),
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({ "spec": { "template": template } }))),
        revision: number,
    };
    match api.create(&PostParams::default(), &made).await {
        Err(error) if has_reason(&error, "AlreadyExists") => Ok(()),
        made => made.during(what).map(drop),
    }
}

/// The template that a revision holds.
fn stored(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = revision.data.as_ref()?.0.get("spec")?.get("template")?;
    serde_json::from_value(data.clone()).ok()
}

/// Deletes the oldest of the revisions that nobody uses.
async fn forget(
    set: &StatefulSet,
    api: &Api<ControllerRevision>,
    mine: &[ControllerRevision],
    pods: &[Pod],
    revisions: &Revisions,
) -> Result<(), Failure> {
    let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit);
    let limit = usize::try_from(limit.unwrap_or(HISTORY)).unwrap_or(0);
    let mut used: HashSet<&str> = pods.iter().filter_map(revision).collect();
    used.extend([&*revisions.current.0, &*revisions.update.0]);
    let idle: Vec<String> = mine
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| !used.contains(&**name))
        .collect();
    for name in idle.iter().take(idle.len().saturating_sub(limit)) {
        let deleted = gone_is_fine(api.delete(name, &DeleteParams::default()).await);
        deleted.during(|| format!("forget revision {name} of StatefulSet {}", Key::of(set)))?;
    }
    Ok(())
}
