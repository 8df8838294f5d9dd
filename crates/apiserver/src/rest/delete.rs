//! DELETE of objects and collections, with finalizers and grace; eviction.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::create::write_failure;
use super::{Target, body, crds};
use crate::admission::{self, Attributes, Operation};
use crate::convert;
use crate::object;
use crate::request::{self, Answer, Call};
use crate::status::{Failure, Outcome};
use crate::store::{Expect, WriteError, revision_of};

/// Grace of a pod that says nothing.
const POD_GRACE: i64 = 30;
const TRIES: usize = 5;

/// DeleteOptions, from the body and the query.
struct Options {
    grace: Option<i64>,
    propagation: String,
    uid: String,
    revision: String,
    dry_run: bool,
}

impl Options {
    fn read(call: &Call) -> Outcome<Self> {
        let body = if call.body.is_empty() {
            Value::Null
        } else {
            body::value(call)?
        };
        let query = |key: &str| call.query.get(key).unwrap_or_default();
        let grace = body["gracePeriodSeconds"]
            .as_i64()
            .or_else(|| query("gracePeriodSeconds").parse().ok());
        let propagation = body["propagationPolicy"]
            .as_str()
            .unwrap_or(query("propagationPolicy"))
            .to_owned();
        // The older spelling.
        let orphan = body["orphanDependents"] == true;
        let propagation = if propagation.is_empty() && orphan {
            "Orphan".to_owned()
        } else {
            propagation
        };
        if !matches!(
            propagation.as_str(),
            "" | "Background" | "Foreground" | "Orphan"
        ) {
            return Err(Failure::bad_request(format!(
                "invalid propagationPolicy {propagation:?}"
            )));
        }
        Ok(Self {
            grace: grace.map(|g| g.max(0)),
            propagation,
            uid: object::text(&body, "/preconditions/uid").to_owned(),
            revision: object::text(&body, "/preconditions/resourceVersion").to_owned(),
            dry_run: call.dry_run()? || object::items(&body, "/dryRun").any(|d| d == "All"),
        })
    }
}

/// What became of the object.
enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Value>),
    /// It waits for finalizers or for the node.
    Waiting(Arc<Value>),
}

/// Answers DELETE of one object.
pub async fn object(target: &Target, call: &Call) -> Outcome<Answer> {
    let options = Options::read(call)?;
    let mut warnings = Vec::new();
    let deleted = delete(target, call, &options, &mut warnings).await?;
    let mut answer = match deleted {
        Deleted::Waiting(object) => super::read::present(target, call, StatusCode::OK, &object),
        // The kinds that the real server answers with the object itself.
        Deleted::Gone(object) if target.kind.is("", "pods") || target.kind.is("", "services") => {
            super::read::present(target, call, StatusCode::OK, &object)
        }
        Deleted::Gone(object) => request::json(StatusCode::OK, &success(target, &object)),
    };
    request::warn(&mut answer, &warnings);
    Ok(answer)
}

fn success(target: &Target, object: &Value) -> Value {
    let mut details = json!({"name": object::name(object), "kind": target.kind.plural, "uid": object::uid(object)});
    if !target.kind.group.is_empty() {
        details["group"] = json!(target.kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Answers DELETE of a collection.
pub async fn collection(target: &Target, call: &Call) -> Outcome<Answer> {
    let options = Options::read(call)?;
    let list = super::read::selected(target, call)?;
    let mut items = Vec::new();
    for item in list {
        let one = target.at(object::namespace(&item), object::name(&item));
        match delete(&one, call, &options, &mut Vec::new()).await {
            Ok(Deleted::Gone(object) | Deleted::Waiting(object)) => {
                items.push((*convert::present(&target.kind, &object)).clone())
            }
            Err(failure) if failure.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    let list = json!({
        "kind": target.kind.list_kind, "apiVersion": target.kind.api_version(),
        "metadata": {"resourceVersion": target.server.store.revision().to_string()}, "items": items,
    });
    Ok(request::json(StatusCode::OK, &list))
}

/// Answers POST on `pods/NAME/eviction`: there are no disruption budgets to ask here, so it is a deletion.
pub async fn evict(target: &Target, call: &Call) -> Outcome<Answer> {
    let eviction = body::value(call)?;
    let options = Options {
        grace: eviction
            .pointer("/deleteOptions/gracePeriodSeconds")
            .and_then(Value::as_i64),
        propagation: String::new(),
        uid: object::text(&eviction, "/deleteOptions/preconditions/uid").to_owned(),
        revision: String::new(),
        dry_run: call.dry_run()?,
    };
    let pod = target.at(&target.namespace, &target.name);
    delete(&pod, call, &options, &mut Vec::new()).await?;
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(request::json(StatusCode::CREATED, &body))
}

impl Target {
    /// Another object of this kind.
    pub fn at(&self, namespace: &str, name: &str) -> Self {
        Self {
            server: self.server.clone(),
            kind: self.kind.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: String::new(),
            rest: String::new(),
        }
    }
}

async fn delete(
    target: &Target,
    call: &Call,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Outcome<Deleted> {
    for _ in 0..TRIES {
        let (old, _) = target
            .server
            .store
            .get(&target.key())
            .ok_or_else(|| target.not_found())?;
        let old = convert::present(&target.kind, &old);
        preconditions(target, &old, options)?;
        let namespace = if target.kind.is("", "namespaces") {
            &target.name
        } else {
            &target.namespace
        };
        let attributes = Attributes {
            kind: &target.kind,
            subresource: "",
            operation: Operation::Delete,
            namespace,
            name: &target.name,
            old: Some(&old),
            dry_run: options.dry_run,
            user: &call.user,
            options: delete_options(options),
        };
        admission::validate(&target.server, &attributes, None, warnings).await?;
        match step(target, &old, options).await {
            Err(WriteError::Modified) => {}
            Err(WriteError::Gone) => return Err(target.not_found()),
            Err(error) => return Err(write_failure(target, error)),
            Ok(deleted) => {
                crds::after_write(&target.server, &target.kind);
                crds::after_delete(target);
                return Ok(deleted);
            }
        }
    }
    Err(Failure::modified(
        &target.kind.group,
        &target.kind.plural,
        &target.name,
    ))
}

fn delete_options(options: &Options) -> Value {
    let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(grace) = options.grace {
        value["gracePeriodSeconds"] = json!(grace);
    }
    if !options.propagation.is_empty() {
        value["propagationPolicy"] = json!(options.propagation);
    }
    value
}

fn preconditions(target: &Target, old: &Value, options: &Options) -> Outcome<()> {
    let conflict = |what: &str, given: &str, have: &str| {
        let detail = format!(
            "the {what} in the precondition ({given}) does not match the {what} in record ({have}). The object might have been deleted and then recreated"
        );
        Failure::conflict(&target.kind.group, &target.kind.kind, &target.name, &detail)
    };
    if !options.uid.is_empty() && options.uid != object::uid(old) {
        return Err(conflict("UID", &options.uid, object::uid(old)));
    }
    let revision = object::text(old, "/metadata/resourceVersion");
    if !options.revision.is_empty() && options.revision != revision {
        return Err(conflict("ResourceVersion", &options.revision, revision));
    }
    Ok(())
}

async fn step(target: &Target, old: &Arc<Value>, options: &Options) -> Result<Deleted, WriteError> {
    let mut next = (**old).clone();
    add_finalizer(target, &mut next, options);
    let grace = grace(target, old, options);
    let held = !object::finalizers(&next).is_empty()
        || (target.kind.is("", "namespaces")
            && object::items(&next, "/spec/finalizers").next().is_some());
    let revision = revision_of(old);
    if grace == 0 && !held {
        if options.dry_run {
            return Ok(Deleted::Gone(old.clone()));
        }
        return target
            .server
            .store
            .delete(target.key(), revision)
            .await
            .map(Deleted::Gone);
    }
    mark(&mut next, grace);
    if target.kind.is("", "namespaces") {
        object::child(&mut next, "status").insert("phase".to_owned(), json!("Terminating"));
    }
    if next == **old || options.dry_run {
        return Ok(Deleted::Waiting(Arc::new(next)));
    }
    convert::to_storage(&target.kind, &mut next);
    target
        .server
        .store
        .put(target.key(), Expect::Revision(revision), next)
        .await
        .map(Deleted::Waiting)
}

fn add_finalizer(target: &Target, next: &mut Value, options: &Options) {
    let wanted = match options.propagation.as_str() {
        "Foreground" => "foregroundDeletion",
        "Orphan" => "orphan",
        _ if target
            .kind
            .is("apiextensions.k8s.io", "customresourcedefinitions") =>
        {
            crds::CLEANUP_FINALIZER
        }
        _ => return,
    };
    if object::is_terminating(next) || object::finalizers(next).contains(&wanted) {
        return;
    }
    let mut list = object::metadata(next)
        .get("finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    list.push(json!(wanted));
    object::metadata(next).insert("finalizers".to_owned(), Value::Array(list));
}

/// Seconds until the object may go: only pods that run somewhere have any.
fn grace(target: &Target, old: &Value, options: &Options) -> i64 {
    if !target.kind.is("", "pods") {
        return 0;
    }
    let ended = matches!(object::text(old, "/status/phase"), "Succeeded" | "Failed");
    if object::text(old, "/spec/nodeName").is_empty() || ended {
        return 0;
    }
    let own = old
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(POD_GRACE);
    options.grace.unwrap_or(own)
}

/// Sets the deletion time, or brings it forward.
fn mark(next: &mut Value, grace: i64) {
    let present = next
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let terminating = object::is_terminating(next);
    if terminating && present.is_none_or(|p| p <= grace) {
        return;
    }
    let at = jiff::Timestamp::now()
        .checked_add(jiff::SignedDuration::from_secs(grace))
        .unwrap_or_else(|_| jiff::Timestamp::now());
    let metadata = object::metadata(next);
    metadata.insert(
        "deletionTimestamp".to_owned(),
        json!(object::format_time(at)),
    );
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".to_owned(), json!(generation + 1));
    }
}
