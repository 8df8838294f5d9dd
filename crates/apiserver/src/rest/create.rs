//! POST of a new object.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Target, body, crds};
use crate::admission::{self, Attributes, Operation};
use crate::convert;
use crate::object;
use crate::request::{self, Answer, Call};
use crate::status::{Failure, Outcome};
use crate::store::{Expect, WriteError};
use crate::{defaults, validate};

/// Names generated before giving up.
const GENERATE_TRIES: usize = 8;

/// Answers a POST on a collection.
pub async fn create(target: &Target, call: &Call) -> Outcome<Answer> {
    let mut warnings = Vec::new();
    let mut value = body::object(call, &target.kind)?;
    body::normalise(call, &target.kind, &mut value, &mut warnings)?;
    let stored = make(target, call, value, &mut warnings).await?;
    let mut answer = super::read::present(target, call, StatusCode::CREATED, &stored);
    request::warn(&mut answer, &warnings);
    Ok(answer)
}

/// Makes an object from a decoded value.
pub async fn make(
    target: &Target,
    call: &Call,
    mut value: Value,
    warnings: &mut Vec<String>,
) -> Outcome<Arc<Value>> {
    let dry_run = call.dry_run()?;
    let namespace = namespace_of(target, &mut value)?;
    let generate = object::name(&value).is_empty()
        && !object::text(&value, "/metadata/generateName").is_empty();
    if !object::text(&value, "/metadata/resourceVersion").is_empty() {
        return Err(Failure::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    initialise(target, &mut value);
    for attempt in 1.. {
        let mut candidate = value.clone();
        if generate {
            let prefix: String = object::text(&value, "/metadata/generateName")
                .chars()
                .take(58)
                .collect();
            object::metadata(&mut candidate).insert(
                "name".to_owned(),
                json!(format!("{prefix}{}", object::suffix())),
            );
        }
        let made = store(target, call, &namespace, candidate, dry_run, warnings).await;
        match made {
            Err(failure)
                if failure.reason == "AlreadyExists" && generate && attempt < GENERATE_TRIES => {}
            other => return other,
        }
    }
    Err(Failure::method_not_allowed())
}

async fn store(
    target: &Target,
    call: &Call,
    namespace: &str,
    mut value: Value,
    dry_run: bool,
    warnings: &mut Vec<String>,
) -> Outcome<Arc<Value>> {
    let (server, kind) = (&target.server, &target.kind);
    if kind.custom.is_none() {
        defaults::fill(kind, &mut value);
    }
    let name = object::name(&value).to_owned();
    let attributes = Attributes {
        kind,
        subresource: "",
        operation: Operation::Create,
        namespace,
        name: &name,
        old: None,
        dry_run,
        user: &call.user,
        options: body::options("CreateOptions", call),
    };
    admission::mutate(server, &attributes, &mut value, warnings).await?;
    // Two Services must not choose the same address: the turn is held until this one is stored.
    let turn = if kind.is("", "services") {
        Some(server.services.turn().await)
    } else {
        None
    };
    let mut causes = validate::check(kind, &value, None);
    if kind.is("", "services") && causes.is_empty() {
        server.services.complete(&server.store, &mut value, None)?;
    }
    if kind.is("apiextensions.k8s.io", "customresourcedefinitions") {
        crds::establish(server, &mut value);
    }
    if !causes.is_empty() {
        causes.dedup();
        return Err(Failure::invalid(&kind.group, &kind.kind, &name, causes));
    }
    admission::validate(server, &attributes, Some(&value), warnings).await?;
    let exists = || Failure::already_exists(&kind.group, &kind.plural, &name);
    let key = target.key_of_in(namespace, &name);
    if dry_run {
        return if server.store.get(&key).is_some() {
            Err(exists())
        } else {
            Ok(Arc::new(value))
        };
    }
    convert::to_storage(kind, &mut value);
    let stored = server
        .store
        .put(key, Expect::Absent, value)
        .await
        .map_err(|e| match e {
            WriteError::Exists => exists(),
            other => write_failure(target, other),
        })?;
    drop(turn);
    crds::after_write(server, kind);
    Ok(stored)
}

/// A failed write as an answer.
pub fn write_failure(target: &Target, error: WriteError) -> Failure {
    let kind = &target.kind;
    match error {
        WriteError::Exists => Failure::already_exists(&kind.group, &kind.plural, &target.name),
        WriteError::Modified => Failure::modified(&kind.group, &kind.plural, &target.name),
        WriteError::Gone => target.not_found(),
        WriteError::Busy => Failure::unavailable("the store is not accepting changes"),
        WriteError::Database(problem) => Failure::internal(format!(
            "storing {} {:?}: {problem}",
            kind.plural, target.name
        )),
    }
}

fn namespace_of(target: &Target, value: &mut Value) -> Outcome<String> {
    if !target.kind.namespaced {
        object::metadata(value).remove("namespace");
        return Ok(String::new());
    }
    let given = object::namespace(value).to_owned();
    if target.namespace.is_empty() {
        // POST on the collection over all namespaces is not offered.
        return Err(Failure::method_not_allowed());
    }
    if !given.is_empty() && given != target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object::metadata(value).insert("namespace".to_owned(), json!(target.namespace));
    Ok(target.namespace.clone())
}

fn initialise(target: &Target, value: &mut Value) {
    let kind = &target.kind;
    let generation = counts_generations(target);
    let metadata = object::metadata(value);
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(object::now()));
    if generation {
        metadata.insert("generation".to_owned(), json!(1));
    }
    // Nodes may come with their status; everyone else's is written by its controller.
    if kind.has("status")
        && !kind.is("", "nodes")
        && let Some(map) = value.as_object_mut()
    {
        map.remove("status");
    }
}

/// Whether `metadata.generation` counts the changes of this kind's spec.
pub fn counts_generations(target: &Target) -> bool {
    let kind = &target.kind;
    kind.custom.is_some()
        || matches!(
            kind.group.as_str(),
            "apps"
                | "batch"
                | "networking.k8s.io"
                | "policy"
                | "admissionregistration.k8s.io"
                | "apiextensions.k8s.io"
        )
}

impl Target {
    /// Where an object of this kind is stored, in any namespace.
    pub fn key_of_in(&self, namespace: &str, name: &str) -> crate::store::Key {
        let namespace = if self.kind.namespaced { namespace } else { "" };
        crate::store::Key::new(&self.kind.storage, namespace, name)
    }
}
