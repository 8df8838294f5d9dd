//! `osm mesh problems`: the policies of the cluster that have no effect, or not all of it, as their status says.

use anyhow::anyhow;
use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::cluster::{connect, explain, is_absent};
use crate::table;

/// `osm mesh problems`.
#[derive(Args)]
pub struct ProblemsArgs {
    /// Only of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
}

/// One line: kind, object, what became of it, why.
type Row = [String; 4];

/// Runs it.
pub async fn run(args: ProblemsArgs) -> anyhow::Result<()> {
    let client = connect().await?;
    let mut rows: Vec<Row> = Vec::new();
    for definition in api::crds() {
        rows.extend(of_kind(&client, &definition, args.namespace.as_deref()).await?);
    }
    if rows.is_empty() {
        println!("No problems: every policy is in effect");
        return Ok(());
    }
    print!(
        "{}",
        table::render(["KIND", "OBJECT", "STATUS", "PROBLEM"], &rows)
    );
    Ok(())
}

/// The problems of all objects of a kind, in the version that is stored.
async fn of_kind(
    client: &Client,
    definition: &CustomResourceDefinition,
    namespace: Option<&str>,
) -> anyhow::Result<Vec<Row>> {
    let spec = &definition.spec;
    let mut versions = spec.versions.iter();
    let stored = versions.find(|version| version.storage);
    let version = stored.map_or("", |version| version.name.as_str());
    let kind = GroupVersionKind::gvk(&spec.group, version, &spec.names.kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, &spec.names.plural);
    let objects: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let list = match objects.list(&ListParams::default()).await {
        Ok(list) => list,
        // A cluster without the mesh, or of an older one that knew fewer kinds.
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => {
            return Err(anyhow!(
                "cannot list {}: {}",
                spec.names.kind,
                explain(&error)
            ));
        }
    };
    let rows = list.iter().flat_map(|object| {
        let name = format!(
            "{}/{}",
            object.namespace().unwrap_or_default(),
            object.name_any()
        );
        let status = object.data.get("status").unwrap_or(&Value::Null);
        of_status(status).into_iter().map(move |(word, problem)| {
            [
                spec.names.kind.clone(),
                name.clone(),
                word.to_owned(),
                problem,
            ]
        })
    });
    Ok(rows.collect())
}

/// What a status says that its author should know.
fn of_status(status: &Value) -> Vec<(&'static str, String)> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let conditions = status.get("conditions").and_then(Value::as_array);
    let conflict = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.get("reason").and_then(Value::as_str) == Some("Conflict"));
    let refused = status
        .get("refusedByProxies")
        .and_then(Value::as_u64)
        .is_some();
    let mut problems = Vec::new();
    if text(status.get("currentStatus")) == "error" {
        let word = match (refused, conflict) {
            (true, _) => "refused",
            (false, true) => "conflict",
            (false, false) => "ignored",
        };
        problems.push((word, text(status.get("reason"))));
    }
    let parts = status.get("problems").and_then(Value::as_array);
    for part in parts.into_iter().flatten() {
        problems.push(("partly ignored", text(Some(part))));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_told_in_a_word_and_a_reason() {
        let conflict = json!([{ "type": "Accepted", "reason": "Conflict" }]);
        for (status, expected) in [
            (json!(null), vec![]),
            (
                json!({ "currentStatus": "committed", "reason": "successfully committed by the system" }),
                vec![],
            ),
            (
                json!({ "currentStatus": "error", "reason": "why" }),
                vec![("ignored", "why")],
            ),
            (
                json!({ "currentStatus": "error", "reason": "n/a", "conditions": conflict }),
                vec![("conflict", "n/a")],
            ),
            (
                json!({ "currentStatus": "error", "reason": "refused by 2 proxies: x", "refusedByProxies": 2, "problems": ["part"] }),
                vec![
                    ("refused", "refused by 2 proxies: x"),
                    ("partly ignored", "part"),
                ],
            ),
            (
                json!({ "currentStatus": "committed", "problems": ["one", "two"] }),
                vec![("partly ignored", "one"), ("partly ignored", "two")],
            ),
        ] {
            let got = of_status(&status);
            let got: Vec<(&str, &str)> = got
                .iter()
                .map(|(word, text)| (*word, text.as_str()))
                .collect();
            assert_eq!(got, expected, "{status}");
        }
    }
}
