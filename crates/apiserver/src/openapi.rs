//! OpenAPI: v3 documents per group and version, for `kubectl explain` and for kubectl to learn that the server validates
//! fields itself; v2 as an empty document, which makes old clients skip their own validation.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use crate::Server;
use crate::kinds::{Catalogue, Kind, builtin};
use crate::request::{self, Answer, Call};
use crate::status::{Failure, Outcome};

/// Answers `/openapi/v2`.
pub fn v2(_server: &Server, call: &Call) -> Outcome<Answer> {
    if call.header(header::ACCEPT).contains("protobuf") {
        // The media type is answered with `.` for the `@` of the request, which is no legal character in one.
        // An OpenAPI v2 message with no fields but the version: `swagger` is field 1.
        let body = Bytes::from_static(b"\x0a\x032.0");
        let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return Ok(request::bytes_answer(StatusCode::OK, media_type, body));
    }
    let body = json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": {}, "definitions": {}});
    Ok(request::json(StatusCode::OK, &body))
}

/// Answers `/openapi/v3` and its documents.
pub fn v3(server: &Server, document: &str) -> Outcome<Answer> {
    let catalogue = server.registry.now();
    if document.is_empty() {
        let mut paths = Map::new();
        for kind in catalogue.all() {
            let path = path_of(kind);
            if !paths.contains_key(&path) {
                let url = format!(
                    "/openapi/v3/{path}?hash={:X}",
                    fingerprint(&catalogue, &path)
                );
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        return Ok(request::json(StatusCode::OK, &json!({"paths": paths})));
    }
    let kinds: Vec<&Kind> = catalogue
        .all()
        .map(|k| &**k)
        .filter(|k| path_of(k) == document)
        .collect();
    if kinds.is_empty() {
        return Err(Failure::no_such_path());
    }
    Ok(request::json(StatusCode::OK, &assemble(&kinds)))
}

fn path_of(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

/// Changes when the documents of the path may have changed, so that clients cache.
fn fingerprint(catalogue: &Catalogue, path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for kind in catalogue.all().filter(|k| path_of(k) == path) {
        kind.kind.hash(&mut hasher);
        if let Some(custom) = &kind.custom {
            custom.document.to_string().hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn assemble(kinds: &[&Kind]) -> Value {
    let (mut schemas, mut paths) = (Map::new(), Map::new());
    for kind in kinds {
        let name = match &kind.schema.reference {
            Some(name) => name.to_string(),
            None => custom_name(kind),
        };
        let document = match &kind.custom {
            Some(custom) => custom_document(&custom.document),
            None => builtin()
                .documents
                .get(&name)
                .cloned()
                .unwrap_or_else(|| json!({"type": "object"})),
        };
        collect(&document, &mut schemas);
        let mut document = document;
        document["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        schemas.insert(name.clone(), document);
        add_paths(kind, &name, &mut paths);
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn custom_name(kind: &Kind) -> String {
    let reversed: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind)
}

fn custom_document(schema: &Value) -> Value {
    const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let mut document = schema.clone();
    if !document.is_object() {
        document = json!({"type": "object"});
    }
    let properties = crate::object::child(&mut document, "properties");
    properties.insert("apiVersion".to_owned(), json!({"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."}));
    properties.insert("kind".to_owned(), json!({"type": "string", "description": "Kind is a string value representing the REST resource this object represents."}));
    properties.insert(
        "metadata".to_owned(),
        json!({"description": "Standard object's metadata.", "allOf": [{"$ref": META}]}),
    );
    document
}

/// Adds every type that a document refers to.
fn collect(document: &Value, schemas: &mut Map<String, Value>) {
    match document {
        Value::Object(map) => {
            if let Some(name) = map
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|r| r.rsplit('/').next())
                && !schemas.contains_key(name)
                && let Some(found) = builtin().documents.get(name)
            {
                schemas.insert(name.to_owned(), found.clone());
                collect(found, schemas);
            }
            map.values().for_each(|v| collect(v, schemas));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(v, schemas)),
        _ => {}
    }
}

/// The operations that clients look at: they say whether `fieldValidation` and `dryRun` exist.
fn add_paths(kind: &Kind, schema: &str, paths: &mut Map<String, Value>) {
    let base = if kind.namespaced {
        format!(
            "/{}/namespaces/{{namespace}}/{}",
            path_of(kind),
            kind.plural
        )
    } else {
        format!("/{}/{}", path_of(kind), kind.plural)
    };
    let content =
        json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = |action: &str, write: bool| {
        let parameters = if write {
            vec![
                query("dryRun"),
                query("fieldManager"),
                query("fieldValidation"),
                query("pretty"),
            ]
        } else {
            vec![query("pretty")]
        };
        let mut operation = json!({
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(kind), "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content}},
        });
        if write {
            operation["requestBody"] = json!({"content": content});
        }
        operation
    };
    paths.insert(
        base.clone(),
        json!({"get": operation("list", false), "post": operation("post", true)}),
    );
    paths.insert(
        format!("{base}/{{name}}"),
        json!({
            "get": operation("get", false), "put": operation("put", true), "patch": operation("patch", true),
            "delete": operation("delete", false),
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_closed_and_say_that_fields_are_validated() {
        let catalogue = Catalogue::new(Vec::new());
        let kinds: Vec<&Kind> = catalogue
            .all()
            .map(|k| &**k)
            .filter(|k| path_of(k) == "apis/apps/v1")
            .collect();
        let document = assemble(&kinds);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        fn references(value: &Value, out: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    out.extend(
                        map.get("$ref")
                            .and_then(Value::as_str)
                            .and_then(|r| r.rsplit('/').next())
                            .map(str::to_owned),
                    );
                    map.values().for_each(|v| references(v, out));
                }
                Value::Array(items) => items.iter().for_each(|v| references(v, out)),
                _ => {}
            }
        }
        let mut names = Vec::new();
        references(&document, &mut names);
        assert!(names.iter().all(|n| schemas.contains_key(n)));
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation")
        );
    }
}
