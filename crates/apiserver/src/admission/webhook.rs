//! Admission webhooks: which are asked, what they are asked, what their answers mean.

use std::sync::Arc;

use base64::Engine;
use serde_json::{Value, json};

use super::client::{self, CallError};
use super::{Attributes, Operation};
use crate::kinds::{Kind, builtin};
use crate::object::{self, items, text};
use crate::schema;
use crate::selectors::LabelSelector;
use crate::status::{Failure, Outcome};
use crate::store::Key;
use crate::{Server, defaults};

const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";

/// Asks the mutating webhooks, each with the result of those before; tells whether anything changed.
pub async fn mutate(
    server: &Server,
    at: &Attributes<'_>,
    object: &mut Value,
    warnings: &mut Vec<String>,
) -> Outcome<bool> {
    let mut changed = false;
    for webhook in matching(server, at, MUTATING, Some(object)) {
        let answer = ask(server, at, &webhook, Some(object), warnings).await?;
        let Some(patch) = answer.as_ref().and_then(|a| a["patch"].as_str()) else {
            continue;
        };
        let name = text(&webhook.definition, "/name");
        let patched = apply(object, patch).map_err(|e| {
            Failure::internal(format!(
                "failed calling webhook {name:?}: invalid patch: {e}"
            ))
        });
        match patched {
            Ok(next) if next == *object => {}
            Ok(next) => {
                *object = next;
                normalise(at.kind, object);
                changed = true;
            }
            Err(failure) if webhook.fails_open() => {
                tracing::warn!(webhook = name, %failure.message, "ignored")
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(changed)
}

/// Asks the validating webhooks, all at once as the real server does.
pub async fn validate(
    server: &Server,
    at: &Attributes<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Outcome<()> {
    let webhooks = matching(server, at, VALIDATING, object);
    let asked = webhooks.iter().map(|webhook| async move {
        let mut own = Vec::new();
        (ask(server, at, webhook, object, &mut own).await, own)
    });
    for (answer, own) in futures::future::join_all(asked).await {
        warnings.extend(own);
        answer?;
    }
    Ok(())
}

fn apply(object: &Value, patch: &str) -> Result<Value, String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(patch)
        .map_err(|e| e.to_string())?;
    let operations: json_patch::Patch =
        serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let mut next = object.clone();
    json_patch::patch(&mut next, &operations).map_err(|e| e.to_string())?;
    Ok(next)
}

/// What a webhook wrote is read like what a client wrote.
fn normalise(kind: &Kind, object: &mut Value) {
    let definitions = &builtin().definitions;
    if kind.custom.is_some() {
        schema::decode::structural(object, &kind.schema, definitions);
        schema::fill::fill(object, &kind.schema);
    } else {
        schema::decode::builtin(object, &kind.schema, definitions);
        defaults::fill(kind, object);
    }
}

/// A webhook that matches, and the version in which it wants to see the object.
struct Match {
    definition: Value,
    /// Another version of the kind that a rule names (`matchPolicy: Equivalent`).
    kind: Option<Arc<Kind>>,
}

impl Match {
    fn fails_open(&self) -> bool {
        self.definition["failurePolicy"] == "Ignore"
    }
}

fn matching(
    server: &Server,
    at: &Attributes<'_>,
    configurations: &str,
    object: Option<&Value>,
) -> Vec<Match> {
    // Webhook configurations are not subject to webhooks: a bad one could never be mended.
    if at.kind.group == "admissionregistration.k8s.io" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for configuration in server.store.list(&Arc::from(configurations), None).0 {
        for webhook in items(&configuration, "/webhooks") {
            let Some(kind) = rules_match(server, at, webhook) else {
                continue;
            };
            if namespace_matches(server, at, webhook, object) && object_matches(at, webhook, object)
            {
                found.push(Match {
                    definition: webhook.clone(),
                    kind,
                });
            }
        }
    }
    found
}

/// `None`: no rule matches; `Some(None)`: in the object's own version.
fn rules_match(server: &Server, at: &Attributes<'_>, webhook: &Value) -> Option<Option<Arc<Kind>>> {
    let matches = |kind: &Kind| items(webhook, "/rules").any(|rule| rule_matches(rule, kind, at));
    if matches(at.kind) {
        return Some(None);
    }
    if webhook["matchPolicy"] == "Exact" {
        return None;
    }
    let catalogue = server.registry.now();
    catalogue
        .all()
        .find(|k| k.storage == at.kind.storage && k.group == at.kind.group && matches(k))
        .map(|k| Some(k.clone()))
}

fn rule_matches(rule: &Value, kind: &Kind, at: &Attributes<'_>) -> bool {
    let any = |list: &str, wanted: &str| items(rule, list).any(|v| v == "*" || v == wanted);
    let scope = match rule["scope"].as_str() {
        Some("Namespaced") => kind.namespaced,
        // A Namespace object is cluster-scoped, although it names itself.
        Some("Cluster") => !kind.namespaced,
        _ => true,
    };
    let resource = items(rule, "/resources")
        .filter_map(Value::as_str)
        .any(|r| {
            let (plural, sub) = r.split_once('/').unwrap_or((r, ""));
            (plural == "*" || plural == kind.plural) && (sub == at.subresource || (sub == "*"))
        });
    scope
        && resource
        && any("/operations", at.operation.name())
        && any("/apiGroups", &kind.group)
        && any("/apiVersions", &kind.version)
}

fn namespace_matches(
    server: &Server,
    at: &Attributes<'_>,
    webhook: &Value,
    object: Option<&Value>,
) -> bool {
    let selector = LabelSelector::from_object(&webhook["namespaceSelector"]);
    if selector.is_empty() {
        return true;
    }
    if at.kind.is("", "namespaces") {
        let labels = object
            .or(at.old)
            .and_then(|o| o.pointer("/metadata/labels"));
        return selector.matches(labels);
    }
    if !at.kind.namespaced {
        return true;
    }
    let namespace = server
        .store
        .get(&Key::new(&Arc::from("namespaces"), "", at.namespace));
    namespace.is_some_and(|(n, _)| selector.matches(n.pointer("/metadata/labels")))
}

fn object_matches(at: &Attributes<'_>, webhook: &Value, object: Option<&Value>) -> bool {
    let selector = LabelSelector::from_object(&webhook["objectSelector"]);
    selector.is_empty()
        || [object, at.old]
            .into_iter()
            .flatten()
            .any(|o| selector.matches(o.pointer("/metadata/labels")))
}

/// Asks one webhook; `None` if it could not be asked and may be ignored.
async fn ask(
    server: &Server,
    at: &Attributes<'_>,
    webhook: &Match,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Outcome<Option<Value>> {
    let definition = &webhook.definition;
    let name = text(definition, "/name");
    if at.dry_run
        && !matches!(
            definition["sideEffects"].as_str(),
            Some("None" | "NoneOnDryRun")
        )
    {
        return Err(Failure::bad_request(format!(
            "admission webhook {name:?} does not support dry run"
        )));
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let review = review(at, webhook, object, &uid);
    let answer = match client::call(server, definition, &review)
        .await
        .and_then(|a| response(&a, &uid))
    {
        Ok(answer) => answer,
        Err(CallError(problem)) => {
            if webhook.fails_open() {
                tracing::warn!(webhook = name, problem, "failing open");
                return Ok(None);
            }
            return Err(Failure::internal(format!(
                "failed calling webhook {name:?}: {problem}"
            )));
        }
    };
    warnings.extend(
        items(&answer, "/warnings")
            .filter_map(Value::as_str)
            .map(str::to_owned),
    );
    if answer["allowed"] == true {
        Ok(Some(answer))
    } else {
        Err(denied(name, &answer["status"]))
    }
}

fn response(answer: &Value, uid: &str) -> Result<Value, CallError> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err(CallError("webhook response was absent".to_owned()));
    }
    if text(response, "/uid") != uid {
        return Err(CallError(format!(
            "expected response.uid={uid:?}, got {:?}",
            text(response, "/uid")
        )));
    }
    Ok(response.clone())
}

fn denied(name: &str, status: &Value) -> Failure {
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (text(status, "/message"), text(status, "/reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = status["code"]
        .as_u64()
        .and_then(|c| u16::try_from(c).ok())
        .filter(|c| (400..600).contains(c))
        .unwrap_or(400);
    let reason = match text(status, "/reason") {
        "Forbidden" => "Forbidden",
        "Invalid" => "Invalid",
        "BadRequest" => "BadRequest",
        "Conflict" => "Conflict",
        _ if code == 403 => "Forbidden",
        _ => "",
    };
    Failure::new(code, reason, message)
}

fn review(at: &Attributes<'_>, webhook: &Match, object: Option<&Value>, uid: &str) -> Value {
    let kind = webhook.kind.as_deref().unwrap_or(at.kind);
    let gvk = |k: &Kind| json!({"group": k.group, "version": k.version, "kind": k.kind});
    let gvr = |k: &Kind| json!({"group": k.group, "version": k.version, "resource": k.plural});
    let convert = |value: Option<&Value>| match (value, &webhook.kind) {
        (Some(value), Some(kind)) => {
            let mut value = value.clone();
            value["apiVersion"] = json!(kind.api_version());
            value
        }
        (Some(value), None) => value.clone(),
        (None, _) => Value::Null,
    };
    let mut request = json!({
        "uid": uid, "kind": gvk(kind), "resource": gvr(kind), "requestKind": gvk(at.kind), "requestResource": gvr(at.kind),
        "operation": at.operation.name(), "userInfo": at.user.info(), "dryRun": at.dry_run, "options": at.options,
        "object": if at.operation == Operation::Delete { Value::Null } else { convert(object) },
        "oldObject": convert(at.old),
    });
    let name = if at.name.is_empty() {
        object.map(object::name).unwrap_or_default()
    } else {
        at.name
    };
    for (field, value) in [
        ("name", name),
        ("namespace", at.namespace),
        ("subResource", at.subresource),
        ("requestSubResource", at.subresource),
    ] {
        if !value.is_empty() {
            request[field] = json!(value);
        }
    }
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_read_like_the_real_ones() {
        let cases = [
            (
                json!({"message": "no"}),
                "admission webhook \"w\" denied the request: no",
                400,
            ),
            (
                json!({"reason": "Forbidden", "code": 403}),
                "admission webhook \"w\" denied the request: Forbidden",
                403,
            ),
            (
                Value::Null,
                "admission webhook \"w\" denied the request without explanation",
                400,
            ),
        ];
        for (status, message, code) in cases {
            let failure = denied("w", &status);
            assert_eq!((failure.message.as_str(), failure.code), (message, code));
        }
    }

    #[test]
    fn rules_match_resources_subresources_scopes_and_versions() {
        let pods = builtin().kinds.iter().find(|k| k.is("", "pods")).unwrap();
        let user = crate::auth::User::default();
        let at = |subresource: &'static str| Attributes {
            kind: pods,
            subresource,
            operation: Operation::Create,
            namespace: "n",
            name: "p",
            old: None,
            dry_run: false,
            user: &user,
            options: Value::Null,
        };
        let rule = |resource: &str, scope: &str| json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource], "scope": scope});
        let cases = [
            (rule("pods", "*"), "", true),
            (rule("pods", "Namespaced"), "", true),
            (rule("pods", "Cluster"), "", false),
            (rule("pods", "*"), "status", false),
            (rule("pods/*", "*"), "status", true),
            (rule("pods/*", "*"), "", true),
            (rule("*/*", "*"), "exec", true),
            (rule("*", "*"), "exec", false),
            (rule("services", "*"), "", false),
        ];
        for (rule, subresource, expected) in cases {
            assert_eq!(
                rule_matches(&rule, pods, &at(subresource)),
                expected,
                "{rule} {subresource}"
            );
        }
    }
}
