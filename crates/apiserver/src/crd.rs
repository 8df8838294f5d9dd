//! CustomResourceDefinitions: defaults, validation, conditions, and the kinds they make.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{Kind, Scale, storage_name};
use crate::object::{self, text};
use crate::schema::{self, Schema};
use crate::status::Cause;

/// What only custom kinds have.
#[derive(Debug)]
pub struct Custom {
    /// Name of the CRD, `<plural>.<group>`.
    pub crd: String,
    /// The version objects are stored in.
    pub storage_version: String,
    /// `additionalPrinterColumns`.
    pub columns: Vec<Value>,
    /// The schema as published (OpenAPI v3).
    pub document: Value,
    /// Warning sent with each answer of a deprecated version.
    pub deprecation: Option<String>,
}

/// Fills in what the real server fills in.
pub fn fill(crd: &mut Value) {
    let kind = text(crd, "/spec/names/kind").to_owned();
    let names = object::child(&mut crd["spec"], "names");
    object::default_text(names, "singular", &kind.to_lowercase());
    object::default_text(names, "listKind", &format!("{kind}List"));
    let spec = object::child(crd, "spec");
    object::default(spec, "conversion", json!({"strategy": "None"}));
}

/// Conditions and accepted names: everything that passes validation is served at once.
pub fn establish(crd: &mut Value, conflict: Option<&str>) {
    let names = crd["spec"]["names"].clone();
    let stored: Vec<Value> = object::items(crd, "/spec/versions")
        .filter(|v| v["storage"] == true)
        .map(|v| v["name"].clone())
        .collect();
    let now = object::now();
    let status = object::child(crd, "status");
    let mut versions = status
        .get("storedVersions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    versions.extend(
        stored
            .into_iter()
            .filter(|s| !versions.contains(s))
            .collect::<Vec<_>>(),
    );
    status.insert("storedVersions".to_owned(), Value::Array(versions));
    let condition = |kind: &str, ok: bool, reason: &str, message: &str| json!({"type": kind, "status": if ok { "True" } else { "False" }, "lastTransitionTime": now, "reason": reason, "message": message});
    let conditions = match conflict {
        None => {
            status.insert("acceptedNames".to_owned(), names);
            json!([
                condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
                condition(
                    "Established",
                    true,
                    "InitialNamesAccepted",
                    "the initial names have been accepted"
                ),
            ])
        }
        Some(message) => {
            object::default(status, "acceptedNames", json!({"kind": "", "plural": ""}));
            json!([
                condition("NamesAccepted", false, "PluralConflict", message),
                condition(
                    "Established",
                    false,
                    "NotAccepted",
                    "not all names are accepted"
                ),
            ])
        }
    };
    let unchanged = status
        .get("conditions")
        .is_some_and(|old| same_conditions(old, &conditions));
    if !unchanged {
        status.insert("conditions".to_owned(), conditions);
    }
}

fn same_conditions(old: &Value, new: &Value) -> bool {
    let view = |v: &Value| -> Vec<(String, String)> {
        object::items(v, "")
            .map(|c| (text(c, "/type").to_owned(), text(c, "/status").to_owned()))
            .collect()
    };
    view(old) == view(new)
}

/// Checks a CRD.
pub fn check(crd: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let (group, plural) = (text(crd, "/spec/group"), text(crd, "/spec/names/plural"));
    for (field, value) in [
        ("spec.group", group),
        ("spec.names.plural", plural),
        ("spec.names.kind", text(crd, "/spec/names/kind")),
    ] {
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    let wanted = format!("{plural}.{group}");
    if object::name(crd) != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid(
            "metadata.name",
            &json!(object::name(crd)),
            detail,
        ));
    }
    let scope = &crd["spec"]["scope"];
    if !matches!(scope.as_str(), Some("Namespaced" | "Cluster")) {
        let supported = ["Cluster".to_owned(), "Namespaced".to_owned()];
        causes.push(if scope.is_null() {
            Cause::required("spec.scope", "")
        } else {
            Cause::unsupported("spec.scope", scope, &supported)
        });
    }
    let versions: Vec<&Value> = object::items(crd, "/spec/versions").collect();
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", ""));
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid(
            "spec.versions",
            &crd["spec"]["versions"],
            detail,
        ));
    }
    for (i, version) in versions.iter().enumerate() {
        check_version(version, &format!("spec.versions[{i}]"), &mut causes);
    }
    causes
}

fn check_version(version: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(problem) = object::label_1035_problem(text(version, "/name")) {
        causes.push(Cause::invalid(
            format!("{path}.name"),
            &version["name"],
            &problem,
        ));
    }
    let schema = &version["schema"]["openAPIV3Schema"];
    let field = format!("{path}.schema.openAPIV3Schema");
    if !schema.is_object() {
        causes.push(Cause::required(field, "schemas are required"));
        return;
    }
    if text(schema, "/type") != "object" {
        let cause = match text(schema, "/type") {
            "" => Cause::required(format!("{field}.type"), "must not be empty at the root"),
            other => Cause::invalid(
                format!("{field}.type"),
                &json!(other),
                "must be object at the root",
            ),
        };
        causes.push(cause);
    }
    structural(schema, &field, true, causes);
    if let Err(problem) = schema::compile(schema) {
        causes.push(Cause::invalid(field, &json!(""), &problem));
    }
}

/// The rules of structural schemas that people trip over: a type everywhere.
fn structural(schema: &Value, path: &str, root: bool, causes: &mut Vec<Cause>) {
    let free = schema["x-kubernetes-int-or-string"] == true
        || schema["x-kubernetes-preserve-unknown-fields"] == true;
    if !root && text(schema, "/type").is_empty() && !free {
        causes.push(Cause::required(
            format!("{path}.type"),
            "must not be empty for specified object fields",
        ));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        structural(
            property,
            &format!("{path}.properties[{name}]"),
            false,
            causes,
        );
    }
    if schema["items"].is_object() {
        structural(&schema["items"], &format!("{path}.items"), false, causes);
    } else if text(schema, "/type") == "array" {
        causes.push(Cause::required(
            format!("{path}.items"),
            "must be specified",
        ));
    }
    if schema["additionalProperties"].is_object() {
        structural(
            &schema["additionalProperties"],
            &format!("{path}.additionalProperties"),
            false,
            causes,
        );
    }
}

/// Whether the CRD's conditions let it be served.
pub fn is_established(crd: &Value) -> bool {
    object::items(crd, "/status/conditions")
        .any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// The kinds a CRD makes: one per served version.
pub fn kinds(crd: &Value) -> Vec<Kind> {
    let storage_version = object::items(crd, "/spec/versions")
        .find(|v| v["storage"] == true)
        .map(|v| text(v, "/name"))
        .unwrap_or_default();
    object::items(crd, "/spec/versions")
        .filter(|v| v["served"] == true)
        .filter_map(|v| match kind(crd, v, storage_version) {
            Ok(kind) => Some(kind),
            Err(problem) => {
                tracing::warn!(crd = object::name(crd), %problem, "version not served");
                None
            }
        })
        .collect()
}

fn kind(crd: &Value, version: &Value, storage_version: &str) -> Result<Kind, String> {
    let names = &crd["spec"]["names"];
    let strings = |value: &Value| -> Vec<String> {
        object::items(value, "")
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let (group, plural) = (text(crd, "/spec/group"), text(names, "/plural"));
    let document = version["schema"]["openAPIV3Schema"].clone();
    let mut compiled: Schema = schema::compile(&document)?;
    if crd["spec"]["preserveUnknownFields"] == true {
        compiled.preserve_unknown = true;
    }
    let status = version["subresources"]["status"].is_object();
    let scale = version["subresources"]["scale"].as_object().map(|s| {
        let path = |key: &str| {
            s.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let selector = Some(path("labelSelectorPath")).filter(|p| !p.is_empty());
        Scale {
            spec: path("specReplicasPath"),
            status: path("statusReplicasPath"),
            selector,
        }
    });
    let mut subresources = Vec::new();
    if status {
        subresources.push("status".to_owned());
    }
    if scale.is_some() {
        subresources.push("scale".to_owned());
    }
    let name = text(version, "/name");
    let deprecation =
        (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
            Some(warning) => warning.to_owned(),
            None => format!("{group}/{name} {} is deprecated", text(names, "/kind")),
        });
    Ok(Kind {
        group: group.to_owned(),
        version: name.to_owned(),
        kind: text(names, "/kind").to_owned(),
        list_kind: text(names, "/listKind").to_owned(),
        plural: plural.to_owned(),
        singular: text(names, "/singular").to_owned(),
        short: strings(&names["shortNames"]),
        categories: strings(&names["categories"]),
        namespaced: text(crd, "/spec/scope") == "Namespaced",
        subresources,
        scale,
        schema: compiled,
        storage: Arc::from(storage_name(group, plural)),
        custom: Some(Arc::new(Custom {
            crd: object::name(crd).to_owned(),
            storage_version: storage_version.to_owned(),
            columns: object::items(version, "/additionalPrinterColumns")
                .cloned()
                .collect(),
            document,
            deprecation,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widget() -> Value {
        json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
            },
        })
    }

    #[test]
    fn a_good_crd_is_filled_established_and_makes_its_kind() {
        let mut crd = widget();
        fill(&mut crd);
        assert_eq!(check(&crd), []);
        establish(&mut crd, None);
        assert!(is_established(&crd));
        let kinds = kinds(&crd);
        assert_eq!(
            (kinds[0].singular.as_str(), kinds[0].list_kind.as_str()),
            ("widget", "WidgetList")
        );
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    }

    #[test]
    fn mistakes_are_named_by_field() {
        let mut crd = widget();
        crd["metadata"]["name"] = json!("wrong");
        crd["spec"]["scope"] = json!("Everywhere");
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] =
            json!({"spec": {"properties": {}}});
        let fields: Vec<String> = check(&crd).into_iter().map(|c| c.field).collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "spec.scope",
                "spec.versions[0].schema.openAPIV3Schema.properties[spec].type"
            ]
        );
    }
}
