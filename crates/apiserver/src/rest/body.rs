//! Objects in request bodies: decoded, checked against the path, unknown fields dealt with as the client asks.

use serde_json::{Value, json};

use crate::kinds::{Kind, builtin};
use crate::object;
use crate::patch;
use crate::protobuf;
use crate::request::Call;
use crate::schema::decode::{self, Report};
use crate::schema::fill;
use crate::status::{Failure, Outcome};

/// Reads a body as one JSON value, from JSON, YAML or protobuf.
pub fn value(call: &Call) -> Outcome<Value> {
    let media_type = call.header(http::header::CONTENT_TYPE);
    if media_type.contains("protobuf") {
        return protobuf::decode(&call.body)
            .map_err(|e| Failure::bad_request(format!("error decoding protobuf: {e}")));
    }
    let plain = media_type.split(';').next().unwrap_or_default().trim();
    // Proxied clients and curl's default are read as JSON, as Kubernetes does without a media type.
    if !matches!(
        plain,
        "" | "application/json" | "application/yaml" | "text/json"
    ) {
        let message = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
        return Err(Failure::new(415, "UnsupportedMediaType", message));
    }
    if media_type.contains("yaml") {
        let text = std::str::from_utf8(&call.body)
            .map_err(|e| Failure::bad_request(format!("error decoding YAML: {e}")))?;
        return patch::yaml(text)
            .map_err(|e| Failure::bad_request(format!("error decoding YAML: {e}")));
    }
    serde_json::from_slice(&call.body).map_err(|e| {
        Failure::bad_request(format!("the object provided is unrecognized (must be of type Object): couldn't get version/kind; json parse error: {e}"))
    })
}

/// Reads the object of a create or update.
pub fn object(call: &Call, kind: &Kind) -> Outcome<Value> {
    let mut value = value(call)?;
    identify(kind, &mut value)?;
    Ok(value)
}

/// Checks or completes apiVersion and kind.
pub fn identify(kind: &Kind, value: &mut Value) -> Outcome<()> {
    if !value.is_object() {
        return Err(Failure::bad_request(
            "the object provided is unrecognized (must be of type Object)",
        ));
    }
    let wanted = kind.api_version();
    let (got_version, got_kind) = (
        object::text(value, "/apiVersion").to_owned(),
        object::text(value, "/kind").to_owned(),
    );
    if !got_version.is_empty() && got_version != wanted {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({got_version}) does not match the expected API version ({wanted})"
        )));
    }
    if !got_kind.is_empty() && got_kind != kind.kind && kind.custom.is_some() {
        let cause = crate::status::Cause::invalid(
            "kind",
            &json!(got_kind),
            &format!("must be {}", kind.kind),
        );
        return Err(Failure::invalid(
            &kind.group,
            &got_kind,
            object::name(value),
            vec![cause],
        ));
    }
    if !got_kind.is_empty() && got_kind != kind.kind {
        return Err(Failure::bad_request(format!(
            "{got_kind} in version {:?} cannot be handled as a {}: converting ({wanted}.{got_kind}) to ({wanted}.{}): unknown conversion",
            kind.version, kind.kind, kind.kind
        )));
    }
    value["apiVersion"] = json!(wanted);
    value["kind"] = json!(kind.kind);
    Ok(())
}

/// Drops what the kind does not know, fills in defaults of custom kinds; unknown fields are errors, warnings or nothing as
/// `fieldValidation` says.
pub fn normalise(
    call: &Call,
    kind: &Kind,
    value: &mut Value,
    warnings: &mut Vec<String>,
) -> Outcome<()> {
    let report = decode(kind, value);
    let handled = |problem: &str| {
        Failure::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {problem}",
            kind.kind, kind.version, kind.kind
        ))
    };
    if let Some(mismatch) = &report.mismatch {
        return Err(handled(mismatch));
    }
    let unknown: Vec<String> = report
        .unknown
        .iter()
        .map(|f| format!("unknown field {f:?}"))
        .collect();
    match call.query.get("fieldValidation").unwrap_or("Warn") {
        "Strict" if !unknown.is_empty() => {
            return Err(handled(&format!(
                "strict decoding error: {}",
                unknown.join(", ")
            )));
        }
        "Warn" | "" => warnings.extend(unknown),
        "Strict" | "Ignore" => {}
        other => {
            let supported = ["Ignore", "Strict", "Warn"].map(str::to_owned);
            let cause =
                crate::status::Cause::unsupported("fieldValidation", &json!(other), &supported);
            return Err(Failure::invalid(
                "meta.k8s.io",
                "CreateOptions",
                "",
                vec![cause],
            ));
        }
    }
    if kind.custom.is_some() {
        fill::fill(value, &kind.schema);
    }
    // Go leaves empty ones out.
    object::metadata(value).retain(|_, v| {
        !(v.as_array().is_some_and(Vec::is_empty)
            || v.as_object().is_some_and(serde_json::Map::is_empty)
            || v == "")
    });
    Ok(())
}

fn decode(kind: &Kind, value: &mut Value) -> Report {
    let definitions = &builtin().definitions;
    if kind.custom.is_none() {
        return decode::builtin(value, &kind.schema, definitions);
    }
    let mut report = decode::structural(value, &kind.schema, definitions);
    // Metadata of custom objects is typed like everyone's.
    if let Some(metadata) = value.get_mut("metadata") {
        let schema = crate::kinds::schema_of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        let inner = decode::builtin(metadata, &schema, definitions);
        report
            .unknown
            .extend(inner.unknown.into_iter().map(|f| format!("metadata.{f}")));
        report.mismatch = report.mismatch.or(inner.mismatch);
    }
    report
}

/// The options object of admission requests.
pub fn options(kind: &str, call: &Call) -> Value {
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    for key in ["fieldManager", "fieldValidation"] {
        if let Some(value) = call.query.get(key) {
            options[key] = json!(value);
        }
    }
    if call.query.get("dryRun").is_some() {
        options["dryRun"] = json!(["All"]);
    }
    options
}
