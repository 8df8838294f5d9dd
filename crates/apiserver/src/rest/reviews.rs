//! Resources that are questions: token and access reviews, token requests.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Target, body};
use crate::Server;
use crate::auth;
use crate::object::{self, text};
use crate::request::{self, Answer, Call, ResourcePath};
use crate::status::{Cause, Failure, Outcome};
use crate::store::Key;
use crate::token::{self, AUDIENCES, Bound, Claims, Reference};

/// The shortest life of a token, as in Kubernetes.
const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;

/// Answers a review; `None` if the path is none.
pub fn answer(server: &Arc<Server>, call: &Call, path: &ResourcePath) -> Outcome<Option<Answer>> {
    let handler: fn(&Server, &Call, Value) -> Outcome<Value> =
        match (path.group.as_str(), path.plural.as_str()) {
            ("authentication.k8s.io", "tokenreviews") => token_review,
            ("authentication.k8s.io", "selfsubjectreviews") => self_subject_review,
            (
                "authorization.k8s.io",
                "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews",
            ) => access_review,
            ("authorization.k8s.io", "selfsubjectrulesreviews") => rules_review,
            _ => return Ok(None),
        };
    if path.version != "v1" {
        return Err(Failure::no_such_path());
    }
    if call.method != Method::POST || path.name.is_some() {
        return Err(Failure::method_not_allowed());
    }
    let review = body::value(call)?;
    if !review.is_object() {
        return Err(Failure::bad_request(
            "the object provided is unrecognized (must be of type Object)",
        ));
    }
    let mut answer = handler(server, call, review)?;
    if let Some((_, _, kind, _)) = crate::discovery::REVIEWS
        .iter()
        .find(|(g, p, ..)| *g == path.group && *p == path.plural)
    {
        answer["kind"] = json!(kind);
        answer["apiVersion"] = json!(format!("{}/v1", path.group));
    }
    Ok(Some(request::json(StatusCode::CREATED, &answer)))
}

fn token_review(server: &Server, _call: &Call, mut review: Value) -> Outcome<Value> {
    let token = text(&review, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(Failure::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences: Vec<String> = object::items(&review, "/spec/audiences")
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    review["status"] = match auth::authenticate_token(server, &token, &audiences) {
        Ok((user, matched)) => {
            json!({"authenticated": true, "user": user.info(), "audiences": matched})
        }
        Err(problem) => json!({"error": format!("[invalid bearer token, {problem}]"), "user": {}}),
    };
    Ok(review)
}

fn self_subject_review(_server: &Server, call: &Call, mut review: Value) -> Outcome<Value> {
    review["status"] = json!({"userInfo": call.user.info()});
    Ok(review)
}

/// Everyone who is authenticated is allowed: RBAC objects are kept but not evaluated yet.
fn access_review(_server: &Server, _call: &Call, mut review: Value) -> Outcome<Value> {
    review["status"] = json!({"allowed": true, "reason": "authenticated"});
    Ok(review)
}

fn rules_review(_server: &Server, _call: &Call, mut review: Value) -> Outcome<Value> {
    review["status"] = json!({
        "incomplete": false,
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    Ok(review)
}

/// Answers POST on `serviceaccounts/NAME/token`.
pub fn token_request(target: &Target, call: &Call) -> Outcome<Answer> {
    let server = &target.server;
    let (account, _) = server
        .store
        .get(&target.key())
        .ok_or_else(|| target.not_found())?;
    let mut review = if call.body.is_empty() {
        json!({})
    } else {
        body::value(call)?
    };
    let mut audiences: Vec<String> = object::items(&review, "/spec/audiences")
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences = AUDIENCES.iter().map(|a| (*a).to_owned()).collect();
    }
    let seconds = review
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS);
    if !(MIN_SECONDS..=1 << 32).contains(&seconds) {
        let detail = if seconds < MIN_SECONDS {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), detail);
        return Err(Failure::invalid(
            "authentication.k8s.io",
            "TokenRequest",
            "",
            vec![cause],
        ));
    }
    let (pod, node) = bound(target, &review)?;
    let now = jiff::Timestamp::now().as_second();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        nbf: now,
        iss: token::ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{}:{}", target.namespace, target.name),
        kubernetes: Bound {
            namespace: target.namespace.clone(),
            serviceaccount: Reference {
                name: target.name.clone(),
                uid: object::uid(&account).to_owned(),
            },
            pod,
            node,
            warnafter: None,
        },
    };
    let token = server.signer.sign(&claims).map_err(Failure::internal)?;
    let expires = jiff::Timestamp::from_second(claims.exp)
        .map(object::format_time)
        .unwrap_or_default();
    review["kind"] = json!("TokenRequest");
    review["apiVersion"] = json!("authentication.k8s.io/v1");
    let spec = object::child(&mut review, "spec");
    spec.insert("audiences".to_owned(), json!(audiences));
    spec.insert("expirationSeconds".to_owned(), json!(seconds));
    review["metadata"] = json!({"name": target.name, "namespace": target.namespace, "creationTimestamp": object::now()});
    review["status"] = json!({"token": token, "expirationTimestamp": expires});
    Ok(request::json(StatusCode::CREATED, &review))
}

/// The pod that a token is to be bound to must exist and use this account.
fn bound(target: &Target, review: &Value) -> Outcome<(Option<Reference>, Option<Reference>)> {
    let reference = &review["spec"]["boundObjectRef"];
    if !reference.is_object() {
        return Ok((None, None));
    }
    let (kind, name, uid) = (
        text(reference, "/kind"),
        text(reference, "/name"),
        text(reference, "/uid"),
    );
    if kind != "Pod" {
        return Err(Failure::bad_request(format!(
            "cannot bind token for serviceaccount to an object of kind {kind:?}"
        )));
    }
    let key = Key::new(&Arc::from("pods"), &target.namespace, name);
    let (pod, _) = target
        .server
        .store
        .get(&key)
        .ok_or_else(|| Failure::not_found("", "pods", name))?;
    if !uid.is_empty() && uid != object::uid(&pod) {
        let detail = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Failure::conflict("", "pods", name, &detail));
    }
    let account = text(&pod, "/spec/serviceAccountName");
    if account != target.name {
        return Err(Failure::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            target.name
        )));
    }
    let node = text(&pod, "/spec/nodeName");
    let found = target
        .server
        .store
        .get(&Key::new(&Arc::from("nodes"), "", node));
    let node = found.map(|(n, _)| Reference {
        name: node.to_owned(),
        uid: object::uid(&n).to_owned(),
    });
    Ok((
        Some(Reference {
            name: name.to_owned(),
            uid: object::uid(&pod).to_owned(),
        }),
        node,
    ))
}
