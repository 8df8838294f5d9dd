//! Failures as the API server answers them: a `Status` object with HTTP code, reason, message, details and causes.
//!
//! The texts are those of Kubernetes: kubectl prints them verbatim and scripts match on them.

use serde_json::{Value, json};

/// One cause within an `Invalid` status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: &'static str,
    /// Text without the field.
    pub message: String,
    /// Path of the field, `spec.containers[0].name`.
    pub field: String,
}

impl Cause {
    /// A value that is missing.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self {
            reason: "FieldValueRequired",
            message,
            field: field.into(),
        }
    }

    /// A value that is wrong; strings are quoted as Go prints them.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            message: format!("Invalid value: {}: {detail}", go_value(value)),
            field: field.into(),
        }
    }

    /// A value outside an enumeration.
    pub fn unsupported(field: impl Into<String>, value: &Value, supported: &[String]) -> Self {
        let list = supported
            .iter()
            .map(|s| format!("{s:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        Self {
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {}: supported values: {list}",
                go_value(value)
            ),
            field: field.into(),
        }
    }

    /// A value given twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {}", go_value(value)),
            field: field.into(),
        }
    }

    /// A change that is not allowed.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {detail}"),
            field: field.into(),
        }
    }

    /// A reference to something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueNotFound",
            message: format!("Not found: {}", go_value(value)),
            field: field.into(),
        }
    }

    /// A value of another JSON type.
    pub fn wrong_type(field: impl Into<String>, value: &str, detail: &str) -> Self {
        Self {
            reason: "FieldValueTypeInvalid",
            message: format!("Invalid value: {value}: {detail}"),
            field: field.into(),
        }
    }
}

/// Prints a value as Go's field errors do: strings quoted, objects as JSON.
pub fn go_value(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// Name of the object.
    pub name: String,
    /// API group of the object.
    pub group: String,
    /// Kind or resource of the object, whichever Kubernetes puts there.
    pub kind: String,
    /// `metadata.uid`, for conflicts on it.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense.
    pub retry_after: Option<u32>,
}

const NO_SUCH_PATH: &str = "the server could not find the requested resource";

/// Result of anything that answers a request.
pub type Outcome<T> = Result<T, Failure>;

/// `pods` or `deployments.apps`, as messages name resources.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

impl Failure {
    /// A failure without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            causes: Vec::new(),
            retry_after: None,
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.group = group.to_owned();
        self.kind = kind.to_owned();
        self.name = name.to_owned();
        self
    }

    /// 400 with any text.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {name:?} not found", qualified(group, resource)),
        )
        .about(group, resource, name)
    }

    /// 404 for a path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", NO_SUCH_PATH)
    }

    /// 409 on create.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", qualified(group, resource)),
        )
        .about(group, resource, name)
    }

    /// 409 on update.
    pub fn conflict(group: &str, resource: &str, name: &str, detail: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {detail}",
            qualified(group, resource)
        );
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 409 on update with an old resourceVersion.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let detail = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, detail)
    }

    /// 403.
    pub fn forbidden(group: &str, resource: &str, name: &str, detail: &str) -> Self {
        let message = format!(
            "{} {name:?} is forbidden: {detail}",
            qualified(group, resource)
        );
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 422 with the fields at fault.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        let list = match texts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut failure = Self::new(
            422,
            "Invalid",
            format!("{} {name:?} is invalid: {list}", qualified(group, kind)),
        )
        .about(group, kind, name);
        failure.causes = causes;
        failure
    }

    /// 410 for a resourceVersion that has left the watch cache.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let mut failure = Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        failure.causes.push(Cause {
            reason: "",
            message,
            field: String::new(),
        });
        failure
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let mut failure = Self::new(503, "ServiceUnavailable", message);
        failure.retry_after = Some(1);
        failure
    }

    /// The `Status` object.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            body["reason"] = json!(self.reason);
        }
        let mut details = serde_json::Map::new();
        for (key, value) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
        ] {
            if !value.is_empty() {
                details.insert(key.to_owned(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            details.insert(
                "causes".to_owned(),
                self.causes.iter().map(cause_body).collect(),
            );
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".to_owned(), json!(seconds));
        }
        if !details.is_empty() || self.message == NO_SUCH_PATH {
            body["details"] = Value::Object(details);
        }
        body
    }
}

fn cause_body(cause: &Cause) -> Value {
    let mut out = serde_json::Map::new();
    for (key, value) in [
        ("reason", cause.reason),
        ("message", cause.message.as_str()),
        ("field", cause.field.as_str()),
    ] {
        if !value.is_empty() {
            out.insert(key.to_owned(), json!(value));
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_kubernetes() {
        let cases = [
            (Failure::not_found("", "pods", "x"), "pods \"x\" not found"),
            (
                Failure::not_found("apps", "deployments", "x"),
                "deployments.apps \"x\" not found",
            ),
            (
                Failure::already_exists("", "namespaces", "x"),
                "namespaces \"x\" already exists",
            ),
            (
                Failure::modified("", "configmaps", "x"),
                "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please apply your changes to the latest version and try again",
            ),
            (
                Failure::invalid(
                    "apps",
                    "Deployment",
                    "x",
                    vec![Cause::required("spec.selector", "")],
                ),
                "Deployment.apps \"x\" is invalid: spec.selector: Required value",
            ),
        ];
        for (failure, text) in cases {
            assert_eq!(failure.message, text);
        }
    }

    #[test]
    fn several_causes_are_bracketed_and_listed() {
        let failure = Failure::invalid(
            "",
            "Pod",
            "p",
            vec![
                Cause::required("spec.containers", ""),
                Cause::unsupported(
                    "spec.restartPolicy",
                    &json!("x"),
                    &["Always".to_owned(), "Never".to_owned()],
                ),
            ],
        );
        assert_eq!(
            failure.message,
            "Pod \"p\" is invalid: [spec.containers: Required value, spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"Never\"]"
        );
        assert_eq!(
            failure.body()["details"]["causes"][0]["reason"],
            "FieldValueRequired"
        );
    }
}
