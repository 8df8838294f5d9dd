//! The kinds of objects a server knows, by discovery

use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Discovery, Scope, verbs};

use crate::key::{During, Failure};

/// One kind, and what can be done with its objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub watchable: bool,
    pub delete_collection: bool,
}

/// Every kind whose objects can be listed and deleted, in its preferred version.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Kind>, Failure> {
    let discovery = Discovery::new(client.clone()).run().await.during(|| "discover the server's kinds".to_owned())?;
    let resources = discovery.groups().flat_map(|group| group.resources_by_stability());
    let kinds = resources.filter_map(|(resource, capabilities)| {
        let can = |verb| capabilities.supports_operation(verb);
        (can(verbs::LIST) && can(verbs::DELETE)).then(|| Kind {
            namespaced: capabilities.scope == Scope::Namespaced,
            watchable: can(verbs::WATCH),
            delete_collection: can(verbs::DELETE_COLLECTION),
            resource,
        })
    });
    Ok(kinds.collect())
}

/// Whether the server serves the kind in this very version.
pub(crate) async fn knows(client: &Client, gvk: &GroupVersionKind) -> bool {
    kube::discovery::pinned_kind(client, gvk).await.is_ok()
}
