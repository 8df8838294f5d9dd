//! Binding: a pod gets its node.

use http::StatusCode;
use serde_json::{Value, json};

use super::create::write_failure;
use super::update::{PATCH_TRIES, current};
use super::{Target, body};
use crate::object;
use crate::request::{self, Answer, Call};
use crate::status::{Cause, Failure, Outcome};
use crate::store::{Expect, WriteError, revision_of};

/// Answers POST on `pods/NAME/binding`.
pub async fn bind(target: &Target, call: &Call) -> Outcome<Answer> {
    let binding = body::value(call)?;
    let node = object::text(&binding, "/target/name").to_owned();
    if node.is_empty() {
        let cause = Cause::required("target.name", "");
        return Err(Failure::invalid("", "Binding", &target.name, vec![cause]));
    }
    for _ in 0..PATCH_TRIES {
        let old = current(target)?;
        let taken = object::text(&old, "/spec/nodeName");
        if !taken.is_empty() {
            let detail = format!("pod {} is already assigned to node {taken:?}", target.name);
            return Err(Failure::conflict("", "pods/binding", &target.name, &detail));
        }
        if object::is_terminating(&old) {
            let detail = format!(
                "pod {} is being deleted, cannot be assigned to a host",
                target.name
            );
            return Err(Failure::conflict("", "pods/binding", &target.name, &detail));
        }
        let mut next = (*old).clone();
        next["spec"]["nodeName"] = json!(node);
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now()});
        let status = object::child(&mut next, "status");
        let mut conditions = status
            .get("conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(scheduled);
        status.insert("conditions".to_owned(), Value::Array(conditions));
        match target
            .server
            .store
            .put(target.key(), Expect::Revision(revision_of(&old)), next)
            .await
        {
            Ok(_) => {
                let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
                return Ok(request::json(StatusCode::CREATED, &body));
            }
            Err(WriteError::Modified) => {}
            Err(e) => return Err(write_failure(target, e)),
        }
    }
    Err(Failure::modified("", "pods", &target.name))
}
