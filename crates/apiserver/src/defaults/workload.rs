//! Defaults of Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs and CronJobs.

use serde_json::{Map, Value, json};

use super::pod;
use crate::kinds::Kind;
use crate::object::{self, child, default, default_text};

/// Fills in a workload kind.
pub fn fill(kind: &Kind, value: &mut Value) {
    let uid = object::uid(value).to_owned();
    let name = object::name(value).to_owned();
    match kind.plural.as_str() {
        "deployments" => deployment(child(value, "spec")),
        "replicasets" => default(child(value, "spec"), "replicas", 1),
        "statefulsets" => stateful_set(child(value, "spec")),
        "daemonsets" => daemon_set(child(value, "spec")),
        "jobs" => job(child(value, "spec"), &name, &uid),
        "cronjobs" => cron_job(child(value, "spec")),
        _ => return,
    }
    let spec = child(value, "spec");
    if kind.plural != "cronjobs" {
        template(spec);
    }
}

fn template(spec: &mut Map<String, Value>) {
    let Some(template) = spec.get_mut("template").filter(|t| t.is_object()) else {
        return;
    };
    if template["metadata"].is_null() {
        template["metadata"] = json!({});
    }
    pod::spec(child(template, "spec"));
}

fn rolling(spec: &mut Map<String, Value>, field: &str, parameters: &[(&str, Value)]) {
    let strategy = spec.entry(field).or_insert_with(|| json!({}));
    if !strategy.is_object() {
        *strategy = json!({});
    }
    if let Some(map) = strategy.as_object_mut() {
        default_text(map, "type", "RollingUpdate");
        if map["type"] == "RollingUpdate" {
            let rolling = child(strategy, "rollingUpdate");
            for (name, value) in parameters {
                default(rolling, name, value.clone());
            }
        }
    }
}

fn deployment(spec: &mut Map<String, Value>) {
    default(spec, "replicas", 1);
    rolling(
        spec,
        "strategy",
        &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))],
    );
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
}

fn stateful_set(spec: &mut Map<String, Value>) {
    default(spec, "replicas", 1);
    default_text(spec, "podManagementPolicy", "OrderedReady");
    rolling(spec, "updateStrategy", &[("partition", json!(0))]);
    default(spec, "revisionHistoryLimit", 10);
    default(
        spec,
        "persistentVolumeClaimRetentionPolicy",
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
    );
}

fn daemon_set(spec: &mut Map<String, Value>) {
    rolling(
        spec,
        "updateStrategy",
        &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))],
    );
    default(spec, "revisionHistoryLimit", 10);
}

fn job(spec: &mut Map<String, Value>, name: &str, uid: &str) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", 6);
    default_text(spec, "completionMode", "NonIndexed");
    default_text(spec, "podReplacementPolicy", "TerminatingOrFailed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    // A job made here owns its pods by its uid, which is not known in templates of cron jobs.
    if spec["manualSelector"] == false && !uid.is_empty() && !spec.contains_key("selector") {
        spec.insert(
            "selector".to_owned(),
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
        );
        let mut template = spec.remove("template").unwrap_or_else(|| json!({}));
        let mut metadata = Value::Object(std::mem::take(object::metadata(&mut template)));
        let labels = child(&mut metadata, "labels");
        for (key, label) in [
            ("batch.kubernetes.io/controller-uid", uid),
            ("batch.kubernetes.io/job-name", name),
            ("controller-uid", uid),
            ("job-name", name),
        ] {
            labels.insert(key.to_owned(), json!(label));
        }
        template["metadata"] = metadata;
        spec.insert("template".to_owned(), template);
    }
}

fn cron_job(spec: &mut Map<String, Value>) {
    default_text(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    if let Some(job) = spec.get_mut("jobTemplate").filter(|t| t.is_object()) {
        let spec = child(job, "spec");
        self::job(spec, "", "");
        template(spec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::builtin;

    #[test]
    fn deployments_and_jobs_are_filled_as_the_real_server_does() {
        let kind = |plural: &str| {
            builtin()
                .kinds
                .iter()
                .find(|k| k.plural == plural)
                .unwrap()
                .clone()
        };
        let mut value = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "b:1"}]}}}});
        fill(&kind("deployments"), &mut value);
        assert_eq!(value["spec"]["replicas"], 1);
        assert_eq!(
            value["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(value["spec"]["template"]["spec"]["restartPolicy"], "Always");
        let mut value = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {"containers": []}}}});
        fill(&kind("jobs"), &mut value);
        assert_eq!(
            value["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
            "u"
        );
        assert_eq!(
            value["spec"]["template"]["metadata"]["labels"]["job-name"],
            "j"
        );
        let once = value.clone();
        fill(&kind("jobs"), &mut value);
        assert_eq!(value, once);
    }
}
