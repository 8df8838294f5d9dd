//! Who controls an object, and which objects a controller takes or lets go

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::{Api, Resource, ResourceExt};

use crate::key::{During, Failure, Key, gone_is_fine};

/// The owner reference that makes `owner` the controller of an object.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference to the controller of an object, if it has one.
pub(crate) fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object
        .meta()
        .owner_references
        .as_ref()?
        .iter()
        .find(|reference| reference.controller == Some(true))
}

/// The name of the object's controller if that is of the kind.
pub(crate) fn controller_named<'a, K: Resource>(object: &'a K, kind: &str) -> Option<&'a str> {
    controller_of(object)
        .filter(|reference| reference.kind == kind)
        .map(|reference| reference.name.as_str())
}

/// A label selector that can be asked; one that cannot be read selects nothing.
pub(crate) fn selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::try_from(selector.clone()).ok()
}

/// What a controller does with an object that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is its own already.
    Keep,
    /// Nobody's, and the selector matches: take it.
    Adopt,
    /// Its own, but the selector no longer matches: let go.
    Release,
    /// Somebody else's.
    Ignore,
}

/// Decides on one object for the controller `owner`.
pub(crate) fn claim<O: Resource, K: Resource>(
    owner: &O,
    selector: Option<&Selector>,
    object: &K,
) -> Claim {
    let matches = selector.is_some_and(|s| !s.selects_all() && s.matches(object.labels()));
    let deleting = owner.meta().deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.meta().uid.as_ref() => Claim::Ignore,
        Some(_) if matches || deleting => Claim::Keep,
        Some(_) => Claim::Release,
        None if matches && !deleting && object.meta().deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// The merge patch that makes `owner` the controller of the object, if nobody wrote it since.
pub(crate) fn adoption<O: Resource<DynamicType = ()>, K: Resource>(
    owner: &O,
    object: &K,
) -> serde_json::Value {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.push(controller_reference(owner));
    serde_json::json!({"metadata": {"ownerReferences": references, "resourceVersion": object.meta().resource_version}})
}

/// The merge patch that takes the references to `uid` away, if nobody wrote the object since.
pub(crate) fn release<K: Resource>(uid: &str, object: &K) -> serde_json::Value {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|reference| reference.uid != uid);
    serde_json::json!({"metadata": {"ownerReferences": (!references.is_empty()).then_some(references), "resourceVersion": object.meta().resource_version}})
}

/// The owner's pods among those that count for it, after taking and letting go what the selector says.
pub(crate) async fn claimed<O: Resource<DynamicType = ()>>(
    owner: &O,
    selector: Option<&Selector>,
    pods: &Api<Pod>,
    counts: impl Fn(&Pod) -> bool,
) -> Result<Vec<Pod>, Failure> {
    let all = pods
        .list(&ListParams::default())
        .await
        .during(|| format!("list pods of {} {}", O::kind(&()), Key::of(owner)))?;
    let mut mine = Vec::new();
    for pod in all.items.into_iter().filter(|pod| counts(pod)) {
        let name = pod.name_any();
        let changed = match claim(owner, selector, &pod) {
            Claim::Keep => {
                mine.push(pod);
                continue;
            }
            Claim::Ignore => continue,
            Claim::Adopt => Some(adoption(owner, &pod)),
            Claim::Release => None,
        };
        let is_taken = changed.is_some();
        let uid = owner.meta().uid.clone().unwrap_or_default();
        let patch = changed.unwrap_or_else(|| release(&uid, &pod));
        let written = pods
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        let word = if is_taken { "adopt" } else { "release" };
        let written = gone_is_fine(written).during(|| format!("{word} pod {}", Key::of(&pod)))?;
        mine.extend(written.filter(|_| is_taken));
    }
    Ok(mine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;

    fn set(deleting: bool) -> ReplicaSet {
        let mut meta = serde_json::json!({"name": "rs", "uid": "u1"});
        if deleting {
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(serde_json::json!({"metadata": meta, "spec": {"selector": {"matchLabels": {"app": "web"}}}})).unwrap()
    }

    fn pod(app: &str, controller: Option<&str>, deleting: bool) -> Pod {
        let mut meta = serde_json::json!({"name": "p", "labels": {"app": app}});
        if let Some(uid) = controller {
            meta["ownerReferences"] = serde_json::json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true}]);
        }
        if deleting {
            meta["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(serde_json::json!({"metadata": meta})).unwrap()
    }

    #[test]
    fn a_controller_keeps_its_own_takes_the_ownerless_and_lets_go_what_no_longer_matches() {
        let cases = [
            (false, pod("web", Some("u1"), false), Claim::Keep),
            (false, pod("other", Some("u1"), false), Claim::Release),
            (false, pod("web", Some("u2"), false), Claim::Ignore),
            (false, pod("web", None, false), Claim::Adopt),
            (false, pod("web", None, true), Claim::Ignore),
            (false, pod("other", None, false), Claim::Ignore),
            (true, pod("web", None, false), Claim::Ignore),
            (true, pod("other", Some("u1"), false), Claim::Keep),
        ];
        for (deleting, pod, wanted) in cases {
            let set = set(deleting);
            let selects = selector(&set.spec.as_ref().unwrap().selector);
            assert_eq!(
                claim(&set, selects.as_ref(), &pod),
                wanted,
                "{deleting} {pod:?}"
            );
        }
    }
}
