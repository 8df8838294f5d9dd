//! Who owns whom: the objects with their owner references, and what is to happen to one of them

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;

use crate::key::Key;
use crate::kinds::Kind;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// An object's place in the graph.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: Arc<Kind>,
    pub key: Key,
    pub uid: String,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    pub finalizers: Vec<String>,
}

/// All objects of the cluster by uid.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

/// What is known of an object's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// There is no such object, or another one by that name.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waits,
    /// It is there, or cannot be judged.
    Stands,
}

/// What is to happen to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Owners that are gone are to be taken out of its references.
    Forget(Vec<String>),
    /// Delete it; in the foreground if its own dependents must go first.
    Delete {
        foreground: bool,
    },
}

// === impl Node ===

impl Node {
    pub fn new(kind: Arc<Kind>, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            key: Key::new(
                meta.namespace.clone().unwrap_or_default(),
                meta.name.clone().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }

    /// On its way out, but only after its dependents.
    pub fn waits(&self) -> bool {
        self.deleting
            && self
                .finalizers
                .iter()
                .any(|finalizer| finalizer == FOREGROUND)
    }

    /// On its way out, after its dependents were told to forget it.
    pub fn orphans(&self) -> bool {
        self.deleting && self.finalizers.iter().any(|finalizer| finalizer == ORPHAN)
    }

    /// Whether the owner may not go before this one.
    pub fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

// === impl Graph ===

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid))
            .cloned()
            .collect()
    }

    /// Takes an object in as it is now; says whose verdict may be another than before.
    pub fn put(&mut self, node: Node) -> Vec<String> {
        let uid = node.uid.clone();
        self.unlink(&uid);
        for owner in &node.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let mut touched = Vec::new();
        if node.waits() {
            touched.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        if !node.owners.is_empty() || node.deleting {
            touched.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        touched
    }

    /// Takes an object out that is gone; says whose verdict may be another than before.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let mut touched: Vec<String> = self
            .dependents
            .get(uid)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if let Some(node) = self.nodes.remove(uid) {
            touched.extend(
                node.owners
                    .into_iter()
                    .map(|owner| owner.uid)
                    .filter(|owner| self.nodes.contains_key(owner)),
            );
        }
        touched
    }

    fn unlink(&mut self, uid: &str) {
        let Some(before) = self.nodes.get(uid) else {
            return;
        };
        for owner in &before.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}

/// The verdict on an object whose owners were looked up, in the order of its references.
pub(super) fn judge(node: &Node, owners: &[Owner], has_dependents: bool) -> Verdict {
    if node.deleting || node.owners.is_empty() {
        return Verdict::Keep;
    }
    if owners.contains(&Owner::Stands) {
        let gone = node
            .owners
            .iter()
            .zip(owners)
            .filter(|(_, owner)| **owner != Owner::Stands);
        let gone: Vec<String> = gone.map(|(reference, _)| reference.uid.clone()).collect();
        return if gone.is_empty() {
            Verdict::Keep
        } else {
            Verdict::Forget(gone)
        };
    }
    Verdict::Delete {
        foreground: has_dependents && owners.contains(&Owner::Waits),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ApiResource;

    use super::*;

    fn node(uid: &str, owners: &[&str], deleting: bool, finalizers: &[&str]) -> Node {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            plural: "configmaps".to_owned(),
        };
        let kind = Kind {
            resource,
            namespaced: true,
            watchable: true,
            delete_collection: true,
        };
        let owners = owners.iter().map(|uid| OwnerReference {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        });
        Node {
            kind: Arc::new(kind),
            key: Key::new("ns", uid),
            uid: uid.to_owned(),
            owners: owners.collect(),
            deleting,
            finalizers: finalizers.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    #[test]
    fn verdicts() {
        use Owner::{Absent, Stands, Waits};
        let forget = |uid: &str| Verdict::Forget(vec![uid.to_owned()]);
        let delete = |foreground| Verdict::Delete { foreground };
        let cases: [(&[&str], &[Owner], bool, Verdict); 9] = [
            (&[], &[], false, Verdict::Keep),
            (&["a"], &[Stands], false, Verdict::Keep),
            (&["a"], &[Absent], false, delete(false)),
            (&["a"], &[Absent], true, delete(false)),
            (&["a"], &[Waits], false, delete(false)),
            (&["a"], &[Waits], true, delete(true)),
            (&["a", "b"], &[Absent, Stands], false, forget("a")),
            (&["a", "b"], &[Stands, Waits], false, forget("b")),
            (&["a", "b"], &[Absent, Waits], true, delete(true)),
        ];
        for (owners, states, has_dependents, wanted) in cases {
            assert_eq!(
                judge(&node("x", owners, false, &[]), states, has_dependents),
                wanted,
                "{owners:?} {states:?}"
            );
        }
        assert_eq!(
            judge(&node("x", &["a"], true, &[]), &[Absent], false),
            Verdict::Keep
        );
    }

    #[test]
    fn the_end_of_an_owner_touches_its_dependents_and_the_end_of_a_dependent_its_owner() {
        let mut graph = Graph::default();
        graph.put(node("owner", &[], false, &[]));
        assert_eq!(graph.put(node("child", &["owner"], false, &[])), ["child"]);
        assert_eq!(
            graph.put(node("owner", &[], true, &[FOREGROUND])),
            ["child", "owner"]
        );
        assert_eq!(graph.remove("child"), ["owner"]);
        graph.put(node("child", &["owner"], false, &[]));
        assert_eq!(graph.remove("owner"), ["child"]);
    }

    #[test]
    fn a_dependent_that_lost_its_reference_is_no_longer_one() {
        let mut graph = Graph::default();
        graph.put(node("owner", &[], false, &[]));
        graph.put(node("child", &["owner"], false, &[]));
        graph.put(node("child", &[], false, &[]));
        assert!(graph.dependents("owner").is_empty());
        assert!(graph.remove("owner").is_empty());
    }
}
