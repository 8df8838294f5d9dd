//! The four kinds of PATCH.

pub mod apply;
pub mod strategic;

use serde_json::Value;

use crate::schema::{Definitions, Schema};
use crate::status::{Failure, Outcome};

/// What a PATCH body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' merge that knows lists.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// By media type; strategic merge exists for built-in kinds only.
    pub fn from_media_type(media_type: &str, builtin: bool) -> Outcome<Self> {
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        match media_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if builtin => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => {
                let mut known = vec![
                    "application/json-patch+json",
                    "application/merge-patch+json",
                ];
                if builtin {
                    known.push("application/strategic-merge-patch+json");
                }
                known.push("application/apply-patch+yaml");
                let message = format!(
                    "the body of the request was in an unknown format - accepted media types include: {}",
                    known.join(", ")
                );
                Err(Failure::new(415, "UnsupportedMediaType", message))
            }
        }
    }
}

/// Reads a patch body: apply patches may be YAML.
pub fn parse(kind: PatchKind, body: &[u8]) -> Outcome<Value> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    if kind == PatchKind::Apply
        && let Ok(text) = std::str::from_utf8(body)
    {
        return yaml(text).map_err(|e| Failure::bad_request(format!("error decoding YAML: {e}")));
    }
    let error = serde_json::from_slice::<Value>(body)
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default();
    Err(Failure::bad_request(format!(
        "error decoding patch: {error}"
    )))
}

/// YAML as kubectl means it: `0644` is octal.
pub fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

/// Applies a JSON, merge or strategic patch.
pub fn patch(
    kind: PatchKind,
    current: &Value,
    body: &Value,
    schema: &Schema,
    definitions: &Definitions,
) -> Outcome<Value> {
    let mut next = current.clone();
    match kind {
        PatchKind::Json => {
            let operations: json_patch::Patch = serde_json::from_value(body.clone())
                .map_err(|e| Failure::bad_request(format!("error decoding patch: {e}")))?;
            json_patch::patch(&mut next, &operations).map_err(|e| {
                Failure::new(
                    422,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: {e}"),
                )
            })?;
        }
        PatchKind::Merge => {
            require_object(body)?;
            json_patch::merge(&mut next, body);
        }
        PatchKind::Strategic => {
            require_object(body)?;
            strategic::merge(&mut next, body, schema, definitions)?;
        }
        PatchKind::Apply => return Err(Failure::internal("apply patches are merged elsewhere")),
    }
    Ok(next)
}

fn require_object(body: &Value) -> Outcome<()> {
    if body.is_object() {
        Ok(())
    } else {
        Err(Failure::bad_request(
            "error decoding patch: the patch is not a JSON object",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_apply_bodies_read_octal_modes() {
        let value = parse(PatchKind::Apply, b"a: 0644\nb: [x]\n").unwrap();
        assert_eq!(value, serde_json::json!({"a": 420, "b": ["x"]}));
    }

    #[test]
    fn custom_kinds_refuse_strategic_patches() {
        let failure = PatchKind::from_media_type("application/strategic-merge-patch+json", false)
            .unwrap_err();
        assert_eq!(failure.code, 415);
        assert!(!failure.message.contains("strategic"));
    }
}
