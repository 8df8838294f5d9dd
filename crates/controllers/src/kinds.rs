//! The kinds of objects a server knows, by discovery

use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Discovery, Scope, verbs};

use crate::key::{During, Failure, has_code};

/// One kind, and what can be done with its objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub watchable: bool,
    pub delete_collection: bool,
}

/// A group may go between the list of groups and the question for its kinds: then it is asked again so often at most.
const ATTEMPTS: usize = 5;

/// Every kind whose objects can be listed and deleted, in its preferred version.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Kind>, Failure> {
    let mut found = Discovery::new(client.clone()).run().await;
    for _ in 1..ATTEMPTS {
        if !found.as_ref().is_err_and(|error| has_code(error, 404)) {
            break;
        }
        found = Discovery::new(client.clone()).run().await;
    }
    let discovery = found.during(|| "discover the server's kinds".to_owned())?;
    let resources = discovery
        .groups()
        .flat_map(|group| group.resources_by_stability());
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
