//! What happens around CustomResourceDefinitions: names, catalogue, and removal of the objects before the definition goes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Target;
use crate::auth::User;
use crate::kinds::{Kind, storage_name};
use crate::object::{self, text};
use crate::request::{Call, Query};
use crate::store::{Expect, Key, revision_of};
use crate::{Server, bootstrap, crd};

/// Holds a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";

fn is_crd(kind: &Kind) -> bool {
    kind.is("apiextensions.k8s.io", "customresourcedefinitions")
}

/// Sets the conditions of a definition that is about to be stored.
pub fn establish(server: &Server, definition: &mut Value) {
    let (group, plural) = (
        text(definition, "/spec/group").to_owned(),
        text(definition, "/spec/names/plural").to_owned(),
    );
    let kind = text(definition, "/spec/names/kind").to_owned();
    let name = object::name(definition).to_owned();
    let catalogue = server.registry.now();
    let conflict = catalogue.all().filter(|k| k.group == group).find_map(|k| {
        let other = k.custom.as_ref().is_none_or(|c| c.crd != name);
        if other && k.plural == plural {
            Some(format!("{plural:?} is already in use"))
        } else if other && k.kind == kind {
            Some(format!("{kind:?} is already in use"))
        } else {
            None
        }
    });
    crd::establish(definition, conflict.as_deref());
}

/// Serves new definitions and stops serving removed ones.
pub fn after_write(server: &Server, kind: &Kind) {
    if is_crd(kind) {
        bootstrap::reload(server);
    }
}

/// Starts the removal of a definition's objects.
pub fn after_delete(target: &Target) {
    if is_crd(&target.kind) {
        let (server, name) = (target.server.clone(), target.name.clone());
        // Owned by nobody, but ends with the server and is taken up again at its next start.
        tokio::spawn(async move { clean_up(server, name).await });
    }
}

/// Takes up removals that a stop of the server interrupted.
pub async fn resume(server: Arc<Server>) {
    let crds = server.store.list(&Arc::from(STORAGE), None).0;
    for name in crds
        .iter()
        .filter(|c| object::is_terminating(c))
        .map(|c| object::name(c).to_owned())
    {
        clean_up(server.clone(), name).await;
    }
}

async fn clean_up(server: Arc<Server>, name: String) {
    let key = Key::new(&Arc::from(STORAGE), "", &name);
    let mut changes = server.store.changes();
    loop {
        changes.mark_unchanged();
        let Some((definition, _)) = server.store.get(&key) else {
            return;
        };
        if !object::is_terminating(&definition)
            || !object::finalizers(&definition).contains(&CLEANUP_FINALIZER)
        {
            return;
        }
        let resource = storage_name(
            text(&definition, "/spec/group"),
            text(&definition, "/spec/names/plural"),
        );
        let left = server.store.list(&Arc::from(resource.as_str()), None).0;
        if left.is_empty() {
            release(&server, &key, &definition).await;
            bootstrap::reload(&server);
            continue;
        }
        remove_objects(&server, &definition, &left).await;
        // Objects with finalizers wait for their controllers: look again when something changes.
        tokio::select! {
            () = server.stop.cancelled() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
        }
    }
}

async fn remove_objects(server: &Arc<Server>, definition: &Value, left: &[Arc<Value>]) {
    let Some(kind) = crd::kinds(definition).into_iter().next().map(Arc::new) else {
        return;
    };
    let call = Call {
        method: http::Method::DELETE,
        path: String::new(),
        raw_query: String::new(),
        query: Query::default(),
        headers: http::HeaderMap::new(),
        user: User {
            name: "system:apiserver".to_owned(),
            groups: vec!["system:masters".to_owned()],
            ..User::default()
        },
        body: bytes::Bytes::new(),
        upgrade: None,
    };
    for item in left.iter().filter(|i| !object::is_terminating(i)) {
        let target = Target {
            server: server.clone(),
            kind: kind.clone(),
            namespace: object::namespace(item).to_owned(),
            name: object::name(item).to_owned(),
            subresource: String::new(),
            rest: String::new(),
        };
        // Boxed: deletion is what starts clean-up, so the future's type would contain itself.
        let deleted: crate::backend::BoxFuture<'_, _> =
            Box::pin(super::delete::object(&target, &call));
        if let Err(failure) = deleted.await {
            tracing::warn!(object = target.name, %failure.message, "removing an object of a removed definition");
        }
    }
}

async fn release(server: &Server, key: &Key, definition: &Value) {
    let mut next = definition.clone();
    let kept: Vec<&str> = object::finalizers(definition)
        .into_iter()
        .filter(|f| *f != CLEANUP_FINALIZER)
        .collect();
    let empty = kept.is_empty();
    let kept = json!(kept);
    object::metadata(&mut next).insert("finalizers".to_owned(), kept);
    let revision = revision_of(definition);
    let done = if empty {
        server.store.delete(key.clone(), revision).await
    } else {
        server
            .store
            .put(key.clone(), Expect::Revision(revision), next)
            .await
    };
    if let Err(e) = done {
        tracing::debug!(error = %e, "the definition changed meanwhile");
    }
}
