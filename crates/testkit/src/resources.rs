//! A proxy's resources, as a test writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use xds::client::{Any, Kind};
use xds::resources::{KINDS, Resource, Snapshot};

/// Resources by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Resources(BTreeMap<Kind, BTreeMap<String, Any>>);

/// The kind of secrets.
pub(crate) const SDS: Kind = Kind::Secret;

/// The sections of a YAML document, and the field that names a resource.
const SECTIONS: [(&str, Kind, &str); 5] = [
    ("clusters", Kind::Cluster, "name"),
    ("endpoints", Kind::Endpoints, "cluster_name"),
    ("listeners", Kind::Listener, "name"),
    ("routes", Kind::Routes, "name"),
    ("secrets", Kind::Secret, "name"),
];

// === impl Resources ===

impl Resources {
    /// From a document with lists `clusters`, `endpoints`, `listeners`, `routes`, `secrets` in Envoy's YAML.
    pub fn yaml(text: &str) -> Resources {
        let mut resources = Resources::default();
        resources.merge_yaml(text);
        resources
    }

    /// Adds a document as [`Resources::yaml`] reads it.
    pub fn merge_yaml(&mut self, text: &str) {
        let document = schema::parse_yaml(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let sections = document.as_object().expect("a YAML mapping");
        for (key, list) in sections {
            let (_, kind, _) = SECTIONS
                .iter()
                .find(|(section, ..)| section == key)
                .unwrap_or_else(|| panic!("no section {key:?}"));
            for value in list.as_array().into_iter().flatten() {
                self.add(*kind, value);
            }
        }
    }

    /// Adds a resource in Envoy's JSON.
    pub fn add(&mut self, kind: Kind, value: &Value) {
        let (_, _, field) = SECTIONS[SECTIONS.iter().position(|s| s.1 == kind).unwrap()];
        let name = value.get(field).and_then(Value::as_str).unwrap_or_default();
        let type_name = kind.type_url().rsplit('/').next().unwrap();
        let any = schema::any(type_name, value)
            .unwrap_or_else(|error| panic!("{name}: {error}\n{value:#}"));
        self.insert(kind, name, any);
    }

    /// Adds an encoded resource.
    pub fn insert(&mut self, kind: Kind, name: &str, any: Any) {
        self.0.entry(kind).or_default().insert(name.to_owned(), any);
    }

    /// Takes a resource out.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        self.0.entry(kind).or_default().remove(name);
    }

    /// Adds everything of another set.
    pub fn extend(&mut self, other: Resources) {
        for (kind, resources) in other.0 {
            self.0.entry(kind).or_default().extend(resources);
        }
    }

    /// Names of a kind.
    pub fn names(&self, kind: Kind) -> Vec<String> {
        self.0
            .get(&kind)
            .map(|all| all.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// As the server's state machine takes it.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        let mut snapshot = Snapshot::default();
        for url in KINDS {
            let kind = Kind::of(url).expect("a known kind");
            let resources = self.0.get(&kind).into_iter().flatten();
            let resources = resources.map(|(name, any)| (name.clone(), Resource::new(any.clone())));
            snapshot.resources.insert(url, resources.collect());
        }
        Arc::new(snapshot)
    }
}
