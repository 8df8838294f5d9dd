//! Revisions of a Deployment: its new and old ReplicaSets, their numbers, and which are forgotten

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::rolling::Sizes;
use crate::owner::controller_reference;
use crate::template::{HASH_LABEL, hash, same};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a Deployment that its ReplicaSets do not inherit.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.revision",
];

/// A Deployment's ReplicaSets, oldest first.
pub(super) struct Sets {
    pub new: Option<ReplicaSet>,
    pub old: Vec<ReplicaSet>,
}

/// Sorts out which ReplicaSet has the Deployment's template; of several the oldest.
pub(super) fn sort(spec: &DeploymentSpec, mut sets: Vec<ReplicaSet>) -> Sets {
    sets.sort_by_key(|set| {
        (
            set.metadata.creation_timestamp.as_ref().map(|time| time.0),
            set.name_any(),
        )
    });
    let is_new =
        |set: &ReplicaSet| template(set).is_some_and(|template| same(template, &spec.template));
    match sets.iter().position(is_new) {
        Some(at) => Sets {
            new: Some(sets.remove(at)),
            old: sets,
        },
        None => Sets {
            new: None,
            old: sets,
        },
    }
}

/// The revision the new ReplicaSet must have: one more than every old one's.
pub(super) fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter()
        .map(revision)
        .max()
        .unwrap_or(0)
        .saturating_add(1)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    set.annotations()
        .get(REVISION)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The new ReplicaSet as it is to be made, with no pods yet.
pub(super) fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    number: i64,
    sizes: Sizes,
) -> ReplicaSet {
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let labelled = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        Some(labels)
    };
    let mut selector = spec.selector.clone();
    selector.match_labels = labelled(selector.match_labels);
    let mut metadata = spec.template.metadata.clone().unwrap_or_default();
    metadata.labels = labelled(metadata.labels);
    let labels = metadata.labels.clone();
    let template = PodTemplateSpec {
        metadata: Some(metadata),
        spec: spec.template.spec.clone(),
    };
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels,
            annotations: Some(annotations(deployment, None, number, sizes)),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// The annotations the new ReplicaSet is to have, given those it has.
pub(super) fn annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    number: i64,
    sizes: Sizes,
) -> BTreeMap<String, String> {
    let mut annotations = set.map(|set| set.annotations().clone()).unwrap_or_default();
    let inherited = deployment
        .annotations()
        .iter()
        .filter(|(key, _)| !OWN.contains(&key.as_str()));
    annotations.extend(inherited.map(|(key, value)| (key.clone(), value.clone())));
    if let Some(before) = annotations.insert(REVISION.to_owned(), number.to_string())
        && before != number.to_string()
    {
        let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
        *history = if history.is_empty() {
            before
        } else {
            format!("{history},{before}")
        };
    }
    annotations.extend(size_annotations(sizes));
    annotations
}

/// What a ReplicaSet remembers of the Deployment's size.
pub(super) fn size_annotations(sizes: Sizes) -> [(String, String); 2] {
    let most = sizes.desired.saturating_add(sizes.surge);
    [
        (DESIRED.to_owned(), sizes.desired.to_string()),
        (MAXIMUM.to_owned(), most.to_string()),
    ]
}

/// Old, empty ReplicaSets beyond the limit of the history, oldest revision first.
pub(super) fn forgotten(old: &[ReplicaSet], limit: Option<i32>) -> Vec<&ReplicaSet> {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
        return Vec::new();
    };
    let mut oldest: Vec<&ReplicaSet> = old
        .iter()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    oldest.sort_by_key(|set| revision(set));
    let surplus = oldest.len().saturating_sub(limit);
    oldest
        .into_iter()
        .take(surplus)
        .filter(|set| is_empty(set))
        .collect()
}

fn is_empty(set: &ReplicaSet) -> bool {
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let (actual, seen) = set.status.as_ref().map_or((0, None), |status| {
        (status.replicas, status.observed_generation)
    });
    wanted == 0 && actual == 0 && seen >= set.metadata.generation
}

fn template(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u",
                "annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}", REVISION: "7"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}}},
        }))
        .unwrap()
    }

    fn set(name: &str, number: &str, image: &str, replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {REVISION: number}, "creationTimestamp": format!("2026-01-01T00:0{number}:00Z")},
            "spec": {"replicas": replicas, "selector": {}, "template": {"metadata": {"labels": {"app": "web", "pod-template-hash": name}},
                "spec": {"containers": [{"name": "c", "image": image}]}}},
            "status": {"replicas": replicas},
        }))
        .unwrap()
    }

    const SIZES: Sizes = Sizes {
        desired: 4,
        surge: 1,
        unavailable: 1,
        recreate: false,
    };

    #[test]
    fn a_new_set_carries_the_hash_everywhere_and_inherits_annotations() {
        let deployment = deployment();
        let spec = deployment.spec.clone().unwrap();
        let set = new_set(&deployment, &spec, 3, SIZES);
        let hash = set.labels()[HASH_LABEL].clone();
        assert_eq!(set.name_any(), format!("web-{hash}"));
        let spec = set.spec.clone().unwrap();
        assert_eq!(spec.selector.match_labels.unwrap()[HASH_LABEL], hash);
        assert_eq!(
            spec.template.unwrap().metadata.unwrap().labels.unwrap()[HASH_LABEL],
            hash
        );
        let wanted = [
            ("note", "x"),
            (DESIRED, "4"),
            (MAXIMUM, "5"),
            (REVISION, "3"),
        ];
        let wanted: BTreeMap<String, String> = wanted
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        assert_eq!(*set.annotations(), wanted);
    }

    #[test]
    fn going_back_reuses_the_old_set_with_a_new_number() {
        let deployment = deployment();
        let sets = sort(
            deployment.spec.as_ref().unwrap(),
            vec![set("b", "2", "old", 1), set("a", "1", "new", 0)],
        );
        let new = sets.new.unwrap();
        assert_eq!(new.name_any(), "a");
        let number = next_revision(&sets.old);
        assert_eq!(number, 3);
        let annotations = annotations(&deployment, Some(&new), number, SIZES);
        assert_eq!(
            (
                annotations[REVISION].as_str(),
                annotations[REVISION_HISTORY].as_str()
            ),
            ("3", "1")
        );
    }

    #[test]
    fn only_empty_sets_beyond_the_limit_are_forgotten() {
        let old = [
            set("c", "3", "x", 0),
            set("a", "1", "y", 0),
            set("b", "2", "z", 1),
        ];
        let names = |limit| {
            forgotten(&old, limit)
                .iter()
                .map(|set| set.name_any())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(None), Vec::<String>::new());
        assert_eq!(names(Some(2)), ["a"]);
        assert_eq!(names(Some(0)), ["a", "c"]);
    }
}
