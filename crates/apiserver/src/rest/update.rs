//! PUT and PATCH, of objects and of their status; binding of pods.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::create::{counts_generations, make, write_failure};
use super::{Target, body, crds};
use crate::admission::{self, Attributes, Operation};
use crate::kinds::builtin;
use crate::object;
use crate::patch::{self, PatchKind};
use crate::request::{self, Answer, Call};
use crate::status::{Cause, Failure, Outcome};
use crate::store::{Expect, WriteError, revision_of};
use crate::{convert, defaults, validate};

/// A patch meets a concurrent change at most so often before it is the client's conflict, as in Kubernetes.
pub(super) const PATCH_TRIES: usize = 5;

/// Answers PUT.
pub async fn put(target: &Target, call: &Call) -> Outcome<Answer> {
    let mut warnings = Vec::new();
    let mut value = body::object(call, &target.kind)?;
    body::normalise(call, &target.kind, &mut value, &mut warnings)?;
    let name = object::name(&value);
    if !name.is_empty() && name != target.name {
        return Err(renamed(target, &value));
    }
    let blind = object::text(&value, "/metadata/resourceVersion").is_empty();
    if blind && target.kind.custom.is_some() {
        let kind = &target.kind;
        let cause = Cause {
            reason: "FieldValueInvalid",
            message: "Invalid value: 0x0: must be specified for an update".to_owned(),
            field: "metadata.resourceVersion".to_owned(),
        };
        return Err(Failure::invalid(
            &kind.group,
            &kind.plural,
            &target.name,
            vec![cause],
        ));
    }
    for attempt in 1.. {
        let current = current(target)?;
        match replace(target, call, &current, value.clone(), &mut warnings).await {
            Err(WriteOrFailure::Write(WriteError::Modified)) if blind && attempt < PATCH_TRIES => {}
            other => return finish(target, call, other, StatusCode::OK, &warnings),
        }
    }
    Err(Failure::method_not_allowed())
}

fn renamed(target: &Target, value: &Value) -> Failure {
    let (name, url) = (object::name(value), &target.name);
    Failure::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({url})"
    ))
}

/// Answers PATCH.
pub async fn patch(target: &Target, call: &Call) -> Outcome<Answer> {
    let kind = PatchKind::from_media_type(
        call.header(http::header::CONTENT_TYPE),
        target.kind.custom.is_none(),
    )?;
    let change = patch::parse(kind, &call.body)?;
    let mut warnings = Vec::new();
    for attempt in 1.. {
        let current = match current(target) {
            Ok(current) => current,
            Err(failure)
                if kind == PatchKind::Apply
                    && failure.code == 404
                    && target.subresource.is_empty() =>
            {
                return apply_new(target, call, &change, warnings).await;
            }
            Err(failure) => return Err(failure),
        };
        warnings.clear();
        let mut next = patched(target, call, kind, &current, &change)?;
        body::identify(&target.kind, &mut next)?;
        body::normalise(call, &target.kind, &mut next, &mut warnings)?;
        if object::name(&next) != target.name {
            return Err(renamed(target, &next));
        }
        match replace(target, call, &current, next, &mut warnings).await {
            Err(WriteOrFailure::Write(WriteError::Modified)) if attempt < PATCH_TRIES => {}
            other => return finish(target, call, other, StatusCode::OK, &warnings),
        }
    }
    Err(Failure::method_not_allowed())
}

fn manager(call: &Call) -> Outcome<&str> {
    call.query
        .get("fieldManager")
        .filter(|m| !m.is_empty())
        .ok_or_else(|| {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            Failure::invalid("meta.k8s.io", "PatchOptions", "", vec![cause])
        })
}

fn patched(
    target: &Target,
    call: &Call,
    kind: PatchKind,
    current: &Value,
    change: &Value,
) -> Outcome<Value> {
    let (schema, definitions) = (&target.kind.schema, &builtin().definitions);
    if kind == PatchKind::Apply {
        return Ok(patch::apply::apply(
            current,
            change,
            manager(call)?,
            schema,
            definitions,
        ));
    }
    patch::patch(kind, current, change, schema, definitions)
}

async fn apply_new(
    target: &Target,
    call: &Call,
    change: &Value,
    mut warnings: Vec<String>,
) -> Outcome<Answer> {
    let (schema, definitions) = (&target.kind.schema, &builtin().definitions);
    let empty = json!({"metadata": {"name": target.name}});
    let mut value = patch::apply::apply(&empty, change, manager(call)?, schema, definitions);
    body::identify(&target.kind, &mut value)?;
    body::normalise(call, &target.kind, &mut value, &mut warnings)?;
    let stored = make(target, call, value, &mut warnings).await?;
    finish(target, call, Ok(stored), StatusCode::CREATED, &warnings)
}

fn finish(
    target: &Target,
    call: &Call,
    outcome: Result<Arc<Value>, WriteOrFailure>,
    status: StatusCode,
    warnings: &[String],
) -> Outcome<Answer> {
    let stored = outcome.map_err(|e| match e {
        WriteOrFailure::Failure(failure) => failure,
        WriteOrFailure::Write(error) => write_failure(target, error),
    })?;
    let mut answer = super::read::present(target, call, status, &stored);
    request::warn(&mut answer, warnings);
    Ok(answer)
}

pub(super) fn current(target: &Target) -> Outcome<Arc<Value>> {
    let (stored, _) = target
        .server
        .store
        .get(&target.key())
        .ok_or_else(|| target.not_found())?;
    Ok(convert::present(&target.kind, &stored))
}

/// Why an update was not made.
pub enum WriteOrFailure {
    /// The store refused: perhaps to be tried again.
    Write(WriteError),
    /// It is wrong.
    Failure(Failure),
}

impl From<Failure> for WriteOrFailure {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Replaces `old` (as read a moment ago) by `next`, through admission and validation.
pub async fn replace(
    target: &Target,
    call: &Call,
    old: &Arc<Value>,
    mut next: Value,
    warnings: &mut Vec<String>,
) -> Result<Arc<Value>, WriteOrFailure> {
    let (server, kind) = (&target.server, &target.kind);
    preconditions(target, old, &next)?;
    let dry_run = call.dry_run()?;
    merge_parts(target, old, &mut next);
    if kind.custom.is_none() && target.subresource.is_empty() {
        defaults::fill(kind, &mut next);
    }
    let attributes = Attributes {
        kind,
        subresource: &target.subresource,
        operation: Operation::Update,
        namespace: &target.namespace,
        name: &target.name,
        old: Some(old),
        dry_run,
        user: &call.user,
        options: body::options(
            if call.method == http::Method::PATCH {
                "PatchOptions"
            } else {
                "UpdateOptions"
            },
            call,
        ),
    };
    admission::mutate(server, &attributes, &mut next, warnings).await?;
    let turn = if kind.is("", "services") {
        Some(server.services.turn().await)
    } else {
        None
    };
    if kind.is("", "services") && target.subresource.is_empty() {
        let causes = validate::check(kind, &with_cluster_ip(&next, old), Some(old));
        if causes.is_empty() {
            server
                .services
                .complete(&server.store, &mut next, Some(old))?;
        }
    }
    if kind.is("apiextensions.k8s.io", "customresourcedefinitions") {
        crds::establish(server, &mut next);
    }
    count_generation(target, old, &mut next);
    let mut causes = if target.subresource == "status" && kind.custom.is_none() {
        Vec::new()
    } else {
        validate::check(kind, &next, Some(old))
    };
    new_finalizers(old, &next, &mut causes);
    if !causes.is_empty() {
        return Err(Failure::invalid(&kind.group, &kind.kind, &target.name, causes).into());
    }
    admission::validate(server, &attributes, Some(&next), warnings).await?;
    if next == **old {
        return Ok(old.clone());
    }
    if dry_run {
        return Ok(Arc::new(next));
    }
    let revision = revision_of(old);
    let done = if is_finished(target, &next) {
        finish_deletion(target, revision, next).await
    } else {
        convert::to_storage(kind, &mut next);
        server
            .store
            .put(target.key(), Expect::Revision(revision), next)
            .await
    };
    drop(turn);
    let stored = done.map_err(WriteOrFailure::Write)?;
    crds::after_write(server, kind);
    Ok(stored)
}

/// The last finalizer is gone: the object goes, after its final state has been seen by watchers as the deletion's object.
async fn finish_deletion(
    target: &Target,
    revision: u64,
    last: Value,
) -> Result<Arc<Value>, WriteError> {
    target
        .server
        .store
        .delete(target.key(), revision)
        .await
        .map(|_| Arc::new(last))
}

/// A terminating object that nothing holds any more.
fn is_finished(target: &Target, value: &Value) -> bool {
    if !object::is_terminating(value) || !object::finalizers(value).is_empty() {
        return false;
    }
    if target.kind.is("", "namespaces") {
        return object::items(value, "/spec/finalizers").next().is_none();
    }
    value
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0)
        == 0
}

fn preconditions(target: &Target, old: &Value, next: &Value) -> Outcome<()> {
    let kind = &target.kind;
    let (given, have) = (
        object::text(next, "/metadata/resourceVersion"),
        object::text(old, "/metadata/resourceVersion"),
    );
    if !given.is_empty() && given != "0" && given != have {
        return Err(Failure::modified(&kind.group, &kind.plural, &target.name));
    }
    let (given, have) = (object::uid(next), object::uid(old));
    if !given.is_empty() && given != have {
        let place = if target.kind.namespaced {
            format!("{}/", target.namespace)
        } else {
            String::new()
        };
        let path = format!("/registry/{}/{place}{}", kind.storage, target.name);
        let detail = format!(
            "StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {given}, UID in object meta: {have}"
        );
        return Err(Failure::conflict(
            &kind.group,
            &kind.plural,
            &target.name,
            &detail,
        ));
    }
    Ok(())
}

/// What a writer of this (sub)resource may not change is taken from the old object.
fn merge_parts(target: &Target, old: &Value, next: &mut Value) {
    let kind = &target.kind;
    match target.subresource.as_str() {
        "status" => {
            let (status, sent) = (next.get("status").cloned(), next.get("metadata").cloned());
            *next = old.clone();
            set(next, "status", status);
            // Writers of a built-in kind's status may also annotate it; labels and owners stay, but for pods' and nodes' labels.
            if let Some(sent) = sent.filter(|_| kind.custom.is_none()) {
                let labels = kind.is("", "pods") || kind.is("", "nodes");
                for field in ["annotations", "finalizers", "labels"] {
                    if field != "labels" || labels {
                        let content = sent.get(field).cloned();
                        set(&mut next["metadata"], field, content);
                    }
                }
            }
        }
        "finalize" => {
            let finalizers = next
                .pointer("/spec/finalizers")
                .cloned()
                .unwrap_or_else(|| json!([]));
            *next = old.clone();
            object::child(next, "spec").insert("finalizers".to_owned(), finalizers);
        }
        "ephemeralcontainers" => {
            let containers = next
                .pointer("/spec/ephemeralContainers")
                .cloned()
                .unwrap_or_else(|| json!([]));
            *next = old.clone();
            object::child(next, "spec").insert("ephemeralContainers".to_owned(), containers);
        }
        _ if kind.has("status") => set(next, "status", old.get("status").cloned()),
        _ => {}
    }
    if kind.is("", "namespaces") && target.subresource.is_empty() {
        set(next, "spec", old.get("spec").cloned());
    }
    let before = old.get("metadata").cloned().unwrap_or_else(|| json!({}));
    let metadata = object::metadata(next);
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ] {
        match before.get(field) {
            Some(value) => drop(metadata.insert(field.to_owned(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
    metadata.remove("selfLink");
    if !metadata.contains_key("managedFields")
        && let Some(fields) = before.get("managedFields")
    {
        metadata.insert("managedFields".to_owned(), fields.clone());
    }
}

fn set(value: &mut Value, field: &str, content: Option<Value>) {
    if let Some(map) = value.as_object_mut() {
        match content {
            Some(content) => drop(map.insert(field.to_owned(), content)),
            None => drop(map.remove(field)),
        }
    }
}

fn count_generation(target: &Target, old: &Value, next: &mut Value) {
    if !counts_generations(target) || target.subresource == "status" {
        return;
    }
    let without = |v: &Value| -> Value {
        let mut map = v.as_object().cloned().unwrap_or_default();
        map.remove("metadata");
        if target.kind.has("status") {
            map.remove("status");
        }
        Value::Object(map)
    };
    // A Deployment's annotations go on to its ReplicaSets: they count.
    let annotated = target.kind.is("apps", "deployments")
        && old.pointer("/metadata/annotations") != next.pointer("/metadata/annotations");
    if annotated || without(old) != without(next) {
        let generation = old
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        object::metadata(next).insert("generation".to_owned(), json!(generation + 1));
    }
}

fn new_finalizers(old: &Value, next: &Value, causes: &mut Vec<Cause>) {
    if !object::is_terminating(old) {
        return;
    }
    let before = object::finalizers(old);
    let fresh: Vec<&str> = object::finalizers(next)
        .into_iter()
        .filter(|f| !before.contains(f))
        .collect();
    if !fresh.is_empty() {
        let list = fresh
            .iter()
            .map(|f| format!("{f:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
        );
        causes.push(Cause::forbidden("metadata.finalizers", &detail));
    }
}

/// The Service as it will be validated: an update may leave out the address.
fn with_cluster_ip(next: &Value, old: &Value) -> Value {
    let mut value = next.clone();
    if object::text(&value, "/spec/clusterIP").is_empty() && value["spec"]["type"] != "ExternalName"
    {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(content) = old["spec"].get(field) {
                value["spec"][field] = content.clone();
            }
        }
    }
    value
}
