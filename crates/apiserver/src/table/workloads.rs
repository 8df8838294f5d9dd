//! Deployments, ReplicaSets, StatefulSets, DaemonSets and Jobs.

use serde_json::{Value, json};

use super::{age, labels, name, name_and_age, or_none};
use crate::object::{items, text};

/// A row.
pub fn cells(plural: &str, object: &Value) -> Vec<Value> {
    let spec = |field: &str| object["spec"][field].as_i64().unwrap_or(0);
    let status = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let (containers, images) = containers(object);
    let selector = or_none(selector(&object["spec"]["selector"]));
    match plural {
        "deployments" => vec![
            name(object),
            json!(format!("{}/{}", status("readyReplicas"), spec("replicas"))),
            json!(status("updatedReplicas")),
            json!(status("availableReplicas")),
            age(object),
            containers,
            images,
            selector,
        ],
        "replicasets" => vec![
            name(object),
            json!(spec("replicas")),
            json!(status("replicas")),
            json!(status("readyReplicas")),
            age(object),
            containers,
            images,
            selector,
        ],
        "statefulsets" => vec![
            name(object),
            json!(format!("{}/{}", status("readyReplicas"), spec("replicas"))),
            age(object),
            containers,
            images,
        ],
        "daemonsets" => vec![
            name(object),
            json!(status("desiredNumberScheduled")),
            json!(status("currentNumberScheduled")),
            json!(status("numberReady")),
            json!(status("updatedNumberScheduled")),
            json!(status("numberAvailable")),
            or_none(labels(&object["spec"]["template"]["spec"]["nodeSelector"])),
            age(object),
            containers,
            images,
            selector,
        ],
        "jobs" => job(object, containers, images, selector),
        _ => name_and_age(object),
    }
}

fn job(object: &Value, containers: Value, images: Value, selector: Value) -> Vec<Value> {
    let met = |kind: &str| {
        items(object, "/status/conditions").any(|c| c["type"] == kind && c["status"] == "True")
    };
    let status = if met("Complete") {
        "Complete"
    } else if met("Failed") {
        "Failed"
    } else if crate::object::is_terminating(object) {
        "Terminating"
    } else if met("Suspended") {
        "Suspended"
    } else {
        "Running"
    };
    let succeeded = object["status"]["succeeded"].as_i64().unwrap_or(0);
    let completions = match object["spec"]["completions"].as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match object["spec"]["parallelism"].as_i64().unwrap_or(1) {
            1 => format!("{succeeded}/1"),
            many => format!("{succeeded}/1 of {many}"),
        },
    };
    let time = |pointer: &str| text(object, pointer).parse::<jiff::Timestamp>().ok();
    let duration = time("/status/startTime").map(|start| {
        let end = time("/status/completionTime").unwrap_or_else(jiff::Timestamp::now);
        super::age::human(end.as_second() - start.as_second())
    });
    vec![
        name(object),
        json!(status),
        json!(completions),
        json!(duration.unwrap_or_default()),
        age(object),
        containers,
        images,
        selector,
    ]
}

fn containers(object: &Value) -> (Value, Value) {
    let of = |field: &str| {
        let list: Vec<&str> = items(object, "/spec/template/spec/containers")
            .map(|c| text(c, field))
            .collect();
        json!(list.join(","))
    };
    (of("/name"), of("/image"))
}

/// A LabelSelector in one line.
pub fn selector(value: &Value) -> String {
    let mut parts: Vec<String> = Some(labels(&value["matchLabels"]))
        .filter(|l| !l.is_empty())
        .into_iter()
        .collect();
    for expression in items(value, "/matchExpressions") {
        let key = text(expression, "/key");
        let values: Vec<&str> = items(expression, "/values")
            .filter_map(Value::as_str)
            .collect();
        parts.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_row_has_the_wide_columns_too() {
        let object = json!({
            "metadata": {"name": "d"}, "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"}}, "template": {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}},
        });
        let cells = cells("deployments", &object);
        assert_eq!(cells[1], "1/2");
        assert_eq!(
            (&cells[5], &cells[6], &cells[7]),
            (&json!("a,b"), &json!("x,y"), &json!("app=d"))
        );
    }
}
