//! Where objects are.

use std::sync::Arc;

/// Where an object is: resource (`apps/deployments`, `pods`), namespace (empty for cluster scope), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Group and plural.
    pub resource: Arc<str>,
    /// Namespace or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    // NUL occurs in no name, so that no two keys have one encoding.
    pub(super) fn encode(&self) -> String {
        format!("{}\0{}\0{}", self.resource, self.namespace, self.name)
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '\0');
        Some(Self {
            resource: Arc::from(parts.next()?),
            namespace: parts.next()?.to_owned(),
            name: parts.next()?.to_owned(),
        })
    }
}
