//! Server-side tables: what `kubectl get` prints, column by column as the real server does.

mod age;
mod jsonpath;
mod pods;
mod resources;
mod workloads;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::object;

pub use age::since;

/// One column: name, OpenAPI type, format, priority (1: only with `-o wide`).
pub struct Column {
    name: String,
    kind: String,
    format: &'static str,
    description: String,
    priority: i64,
}

/// A column that is always shown.
fn column(name: &str, kind: &str) -> Column {
    let format = if name == "Name" { "name" } else { "" };
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format,
        description: String::new(),
        priority: 0,
    }
}

/// A column of `-o wide`.
fn wide(name: &str) -> Column {
    Column {
        priority: 1,
        ..column(name, "string")
    }
}

/// Columns from a list of names; those after `*` are wide.
fn named(names: &[&str]) -> Vec<Column> {
    names
        .iter()
        .map(|n| {
            n.strip_prefix('*')
                .map_or_else(|| column(n, "string"), wide)
        })
        .collect()
}

/// Makes tables of a kind.
pub struct Shape {
    kind: Arc<Kind>,
    include: String,
}

impl Shape {
    /// `include` is the query parameter `includeObject`.
    pub fn new(kind: Arc<Kind>, include: String) -> Self {
        Self { kind, include }
    }

    /// A table with one row per object.
    pub fn table(&self, objects: &[Arc<Value>]) -> Value {
        let columns: Vec<Value> = columns(&self.kind)
            .iter()
            .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}))
            .collect();
        let rows: Vec<Value> = objects.iter().map(|o| self.row(o)).collect();
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows})
    }

    fn row(&self, object: &Value) -> Value {
        let shown = match self.include.as_str() {
            "Object" => object.clone(),
            "None" => Value::Null,
            _ => crate::rest::metadata_only(object),
        };
        let mut row = json!({"cells": cells(&self.kind, object)});
        if !shown.is_null() {
            row["object"] = shown;
        }
        row
    }
}

fn columns(kind: &Kind) -> Vec<Column> {
    if let Some(custom) = &kind.custom {
        return custom_columns(&custom.columns);
    }
    let names: &[&str] = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => &[
            "Name",
            "Ready",
            "Status",
            "Restarts",
            "Age",
            "*IP",
            "*Node",
            "*Nominated Node",
            "*Readiness Gates",
        ],
        ("", "services") => &[
            "Name",
            "Type",
            "Cluster-IP",
            "External-IP",
            "Port(s)",
            "Age",
            "*Selector",
        ],
        ("", "endpoints") => &["Name", "Endpoints", "Age"],
        ("", "namespaces") => &["Name", "Status", "Age"],
        ("", "nodes") => &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "*Internal-IP",
            "*External-IP",
            "*OS-Image",
            "*Kernel-Version",
            "*Container-Runtime",
        ],
        ("", "configmaps") => &["Name", "Data", "Age"],
        ("", "secrets") => &["Name", "Type", "Data", "Age"],
        ("", "serviceaccounts") => &["Name", "Secrets", "Age"],
        (_, "events") => &[
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "*Subobject",
            "*Source",
            "Message",
            "*First Seen",
            "*Count",
            "*Name",
        ],
        ("apps", "deployments") => &[
            "Name",
            "Ready",
            "Up-to-date",
            "Available",
            "Age",
            "*Containers",
            "*Images",
            "*Selector",
        ],
        ("apps", "replicasets") => &[
            "Name",
            "Desired",
            "Current",
            "Ready",
            "Age",
            "*Containers",
            "*Images",
            "*Selector",
        ],
        ("apps", "statefulsets") => &["Name", "Ready", "Age", "*Containers", "*Images"],
        ("apps", "daemonsets") => &[
            "Name",
            "Desired",
            "Current",
            "Ready",
            "Up-to-date",
            "Available",
            "Node Selector",
            "Age",
            "*Containers",
            "*Images",
            "*Selector",
        ],
        ("batch", "jobs") => &[
            "Name",
            "Status",
            "Completions",
            "Duration",
            "Age",
            "*Containers",
            "*Images",
            "*Selector",
        ],
        ("discovery.k8s.io", _) => &["Name", "AddressType", "Ports", "Endpoints", "Age"],
        ("coordination.k8s.io", _) => &["Name", "Holder", "Age"],
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") | ("apiextensions.k8s.io", _) => {
            &["Name", "Created At"]
        }
        ("rbac.authorization.k8s.io", _) => &[
            "Name",
            "Role",
            "Age",
            "*Users",
            "*Groups",
            "*ServiceAccounts",
        ],
        ("networking.k8s.io", "ingresses") => {
            &["Name", "Class", "Hosts", "Address", "Ports", "Age"]
        }
        ("networking.k8s.io", "networkpolicies") => &["Name", "Pod-Selector", "Age"],
        ("policy", _) => &[
            "Name",
            "Min Available",
            "Max Unavailable",
            "Allowed Disruptions",
            "Age",
        ],
        ("admissionregistration.k8s.io", _) => &["Name", "Webhooks", "Age"],
        _ => &["Name", "Age"],
    };
    named(names)
}

fn cells(kind: &Kind, object: &Value) -> Vec<Value> {
    if let Some(custom) = &kind.custom {
        return custom_cells(&custom.columns, object);
    }
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pods::cells(object),
        ("apps" | "batch", plural) => workloads::cells(plural, object),
        (group, plural) => resources::cells(group, plural, object),
    }
}

/// `metadata.name` and the age, for kinds without columns of their own.
fn name_and_age(object: &Value) -> Vec<Value> {
    vec![name(object), age(object)]
}

fn name(object: &Value) -> Value {
    json!(object::name(object))
}

fn age(object: &Value) -> Value {
    json!(since(object::text(object, "/metadata/creationTimestamp")))
}

fn or_none(text: String) -> Value {
    json!(if text.is_empty() {
        "<none>".to_owned()
    } else {
        text
    })
}

/// Labels as `a=b,c=d`.
fn labels(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}

// === custom kinds ===

fn custom_columns(definitions: &[Value]) -> Vec<Column> {
    let mut columns = vec![column("Name", "string")];
    if definitions.is_empty() {
        columns.push(column("Age", "date"));
        return columns;
    }
    columns.extend(definitions.iter().map(|d| Column {
        priority: d["priority"].as_i64().unwrap_or(0),
        description: object::text(d, "/description").to_owned(),
        ..column(object::text(d, "/name"), object::text(d, "/type"))
    }));
    columns
}

fn custom_cells(definitions: &[Value], object: &Value) -> Vec<Value> {
    if definitions.is_empty() {
        return name_and_age(object);
    }
    let mut cells = vec![name(object)];
    for definition in definitions {
        let found = jsonpath::find(object, object::text(definition, "/jsonPath"));
        cells.push(custom_cell(object::text(definition, "/type"), &found));
    }
    cells
}

fn custom_cell(kind: &str, found: &[&Value]) -> Value {
    let Some(first) = found.first().filter(|v| !v.is_null()) else {
        return Value::Null;
    };
    match kind {
        "date" => json!(since(first.as_str().unwrap_or_default())),
        "integer" | "number" | "boolean" if !first.is_string() => (*first).clone(),
        _ => {
            let texts: Vec<String> = found
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            json!(texts.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::builtin;

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for kind in &builtin().kinds {
            let object = json!({"metadata": {"name": "x"}});
            assert_eq!(
                columns(kind).len(),
                cells(kind, &object).len(),
                "{}",
                kind.kind
            );
        }
    }

    #[test]
    fn custom_columns_follow_their_paths() {
        let definitions = [
            json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}),
            json!({"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1}),
        ];
        let object = json!({"metadata": {"name": "w"}, "spec": {"size": 3}, "status": {"conditions": [{"type": "Other", "status": "x"}, {"type": "Ready", "status": "True"}]}});
        assert_eq!(
            custom_cells(&definitions, &object),
            [json!("w"), json!("True"), json!(3)]
        );
        assert_eq!(custom_columns(&definitions)[2].priority, 1);
    }
}
