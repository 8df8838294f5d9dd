//! The scale subresource, autoscaling/v1.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Target, body, update};
use crate::kinds::{Scale, builtin};
use crate::object;
use crate::patch::{self, PatchKind};
use crate::request::{self, Answer, Call};
use crate::schema::Schema;
use crate::status::{Failure, Outcome};
use crate::store::WriteError;

const TRIES: usize = 5;

/// Answers requests on `…/NAME/scale`.
pub async fn answer(target: &Target, call: &Call) -> Outcome<Answer> {
    let Some(paths) = target.kind.scale.clone() else {
        return Err(Failure::no_such_path());
    };
    if call.method == Method::GET {
        let (object, _) = target
            .server
            .store
            .get(&target.key())
            .ok_or_else(|| target.not_found())?;
        return Ok(request::json(StatusCode::OK, &view(&paths, &object)));
    }
    for _ in 0..TRIES {
        let (old, _) = target
            .server
            .store
            .get(&target.key())
            .ok_or_else(|| target.not_found())?;
        let wanted = wanted(call, &view(&paths, &old))?;
        let given = object::text(&wanted, "/metadata/resourceVersion").to_owned();
        if !given.is_empty() && given != object::text(&old, "/metadata/resourceVersion") {
            return Err(Failure::modified(
                &target.kind.group,
                &target.kind.plural,
                &target.name,
            ));
        }
        let replicas = wanted
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if replicas < 0 {
            let detail = "must be greater than or equal to 0";
            let cause = crate::status::Cause::invalid("spec.replicas", &json!(replicas), detail);
            return Err(Failure::invalid(
                "autoscaling",
                "Scale",
                &target.name,
                vec![cause],
            ));
        }
        let mut next = (*old).clone();
        put_at(&mut next, &paths.spec, json!(replicas));
        // The change is one of the object itself, so that its generation counts.
        let main = target.at(&target.namespace, &target.name);
        let old = crate::convert::present(&target.kind, &old);
        next["apiVersion"] = old["apiVersion"].clone();
        match update::replace(&main, call, &old, next, &mut Vec::new()).await {
            Ok(stored) => return Ok(request::json(StatusCode::OK, &view(&paths, &stored))),
            Err(update::WriteOrFailure::Write(WriteError::Modified)) if given.is_empty() => {}
            Err(update::WriteOrFailure::Write(error)) => {
                return Err(super::create::write_failure(target, error));
            }
            Err(update::WriteOrFailure::Failure(failure)) => return Err(failure),
        }
    }
    Err(Failure::modified(
        &target.kind.group,
        &target.kind.plural,
        &target.name,
    ))
}

fn wanted(call: &Call, present: &Value) -> Outcome<Value> {
    match call.method {
        Method::PUT => body::value(call),
        Method::PATCH => {
            let kind = PatchKind::from_media_type(call.header(http::header::CONTENT_TYPE), true)?;
            let change = patch::parse(kind, &call.body)?;
            let kind = if kind == PatchKind::Apply {
                PatchKind::Merge
            } else {
                kind
            };
            patch::patch(
                kind,
                present,
                &change,
                &Schema::default(),
                &builtin().definitions,
            )
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

fn view(paths: &Scale, object: &Arc<Value>) -> Value {
    let metadata: serde_json::Map<String, Value> = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ]
    .iter()
    .filter_map(|k| {
        object["metadata"]
            .get(*k)
            .map(|v| ((*k).to_owned(), v.clone()))
    })
    .collect();
    let number = |path: &str| get_at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": number(&paths.status)});
    let selector = match &paths.selector {
        Some(path) => get_at(object, path)
            .and_then(Value::as_str)
            .map(str::to_owned),
        None => object.pointer("/spec/selector").map(selector_text),
    };
    if let Some(selector) = selector {
        status["selector"] = json!(selector);
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": if number(&paths.spec) == 0 { json!({}) } else { json!({"replicas": number(&paths.spec)}) }, "status": status,
    })
}

/// A LabelSelector as one line.
fn selector_text(selector: &Value) -> String {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<String> = equal
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    for expression in object::items(selector, "/matchExpressions") {
        let key = object::text(expression, "/key");
        let values: Vec<&str> = object::items(expression, "/values")
            .filter_map(Value::as_str)
            .collect();
        parts.push(match object::text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

fn get_at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .filter(|p| !p.is_empty())
        .try_fold(object, |at, part| at.get(part))
}

fn put_at(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for part in path.split('.').filter(|p| !p.is_empty()) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector_in_one_line() {
        let paths = Scale {
            spec: ".spec.replicas".into(),
            status: ".status.replicas".into(),
            selector: None,
        };
        let object = Arc::new(
            json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}}}),
        );
        let scale = view(&paths, &object);
        assert_eq!(
            (&scale["spec"]["replicas"], &scale["status"]),
            (&json!(3), &json!({"replicas": 0, "selector": "a=b,c"}))
        );
        let mut next = json!({});
        put_at(&mut next, ".spec.replicas", json!(2));
        assert_eq!(next, json!({"spec": {"replicas": 2}}));
    }
}
