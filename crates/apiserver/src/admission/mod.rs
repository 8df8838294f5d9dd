//! Admission: the built-in plug-ins that users see (namespace life-cycle, ServiceAccount, priority, tolerations) and the
//! webhooks.

mod account;
mod client;
pub use client::{dial, endpoint};
mod webhook;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Server;
use crate::auth::User;
use crate::kinds::Kind;
use crate::object;
use crate::status::{Cause, Failure, Outcome};
use crate::store::Key;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST, and PATCH that makes it.
    Create,
    /// PUT and PATCH.
    Update,
    /// DELETE.
    Delete,
}

impl Operation {
    /// As webhook rules and reviews name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A request under admission.
pub struct Attributes<'a> {
    /// The kind of the object in the resource's own version.
    pub kind: &'a Kind,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// What is done.
    pub operation: Operation,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Name; empty while it is to be generated.
    pub name: &'a str,
    /// The object before.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Who asks.
    pub user: &'a User,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: Value,
}

/// Runs the mutating phase on an object.
pub async fn mutate(
    server: &Server,
    at: &Attributes<'_>,
    object: &mut Value,
    warnings: &mut Vec<String>,
) -> Outcome<()> {
    if at.operation == Operation::Create && at.subresource.is_empty() {
        namespace_lifecycle(server, at.kind, at.namespace, at.name)?;
        if at.kind.is("", "pods") {
            account::admit(server, at, object).await?;
            scheduling(object);
        }
    }
    let changed = webhook::mutate(server, at, object, warnings).await?;
    // Webhooks may have added containers: the built-in plug-ins look again, as the real server re-invokes them.
    if changed
        && at.operation == Operation::Create
        && at.kind.is("", "pods")
        && at.subresource.is_empty()
    {
        account::admit(server, at, object).await?;
        scheduling(object);
    }
    Ok(())
}

/// Runs the validating phase.
pub async fn validate(
    server: &Server,
    at: &Attributes<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Outcome<()> {
    if at.operation == Operation::Delete
        && at.kind.is("", "namespaces")
        && matches!(at.name, "default" | "kube-system" | "kube-public")
    {
        return Err(Failure::forbidden(
            "",
            "namespaces",
            at.name,
            "this namespace may not be deleted",
        ));
    }
    webhook::validate(server, at, object, warnings).await
}

/// Nothing is made in a namespace that is absent or going.
pub fn namespace_lifecycle(
    server: &Server,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Outcome<()> {
    if !kind.namespaced {
        return Ok(());
    }
    let key = Key::new(&Arc::from("namespaces"), "", namespace);
    let Some((found, _)) = server.store.get(&key) else {
        return Err(Failure::not_found("", "namespaces", namespace));
    };
    if !object::is_terminating(&found) {
        return Ok(());
    }
    let detail = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut failure = Failure::forbidden(&kind.group, &kind.plural, name, &detail);
    failure.causes.push(Cause {
        reason: "NamespaceTerminating",
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    });
    Err(failure)
}

/// Priority and the default tolerations.
fn scheduling(pod: &mut Value) {
    let spec = object::child(pod, "spec");
    object::default(spec, "priority", 0);
    object::default_text(spec, "preemptionPolicy", "PreemptLowerPriority");
    let mut tolerations = spec
        .get("tolerations")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = tolerations.iter().any(|t| {
            let any = t.get("key").is_none_or(|k| k == "") || t["key"] == key;
            any && t.get("effect").is_none_or(|e| e == "" || e == "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    spec.insert("tolerations".to_owned(), Value::Array(tolerations));
}
