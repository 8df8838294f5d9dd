//! Validation of objects: metadata of every kind, and what users mistype in the built-in ones.

mod pods;

use serde_json::{Value, json};

use self::pods::{pod_spec, pod_update};
use crate::kinds::Kind;
use crate::object::{self, items, text};
use crate::selectors::LabelSelector;
use crate::status::Cause;

/// All violations of an object that is about to be stored.
pub fn check(kind: &Kind, value: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    metadata(kind, value, &mut causes);
    if kind.custom.is_some() {
        causes.extend(crate::schema::check::check(value, &kind.schema));
    } else {
        builtin(kind, value, &mut causes);
    }
    if let Some(old) = old {
        immutable(kind, value, old, &mut causes);
    }
    causes
}

fn metadata(kind: &Kind, value: &Value, causes: &mut Vec<Cause>) {
    let name = object::name(value);
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        let problem = match (kind.group.as_str(), kind.plural.as_str()) {
            ("", "namespaces") => object::label_problem(name),
            ("", "services") => object::label_1035_problem(name),
            ("rbac.authorization.k8s.io", _) | ("", "events") | ("events.k8s.io", _) => {
                object::path_segment_problem(name)
            }
            _ => object::subdomain_problem(name),
        };
        if let Some(problem) = problem {
            causes.push(Cause::invalid("metadata.name", &json!(name), &problem));
        }
    }
    object::check_labels(&value["metadata"], "metadata", causes);
    for (i, owner) in items(value, "/metadata/ownerReferences").enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences[{i}].{field}"),
                    &json!(""),
                    "must not be empty",
                ));
            }
        }
    }
    for finalizer in object::finalizers(value) {
        if !finalizer.contains('/')
            && !matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes")
        {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(
                "metadata.finalizers[0]",
                &json!(finalizer),
                detail,
            ));
        }
    }
}

fn builtin(kind: &Kind, value: &Value, causes: &mut Vec<Cause>) {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "pods") => pod_spec(&value["spec"], "spec", causes),
        ("", "services") => service(value, causes),
        ("", "configmaps") => {
            keys(value, causes);
            duplicate_keys(value, causes);
        }
        ("", "secrets") => {
            keys(value, causes);
            secret_type(value, causes);
        }
        (
            "apps" | "batch",
            "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "jobs",
        ) => {
            workload(kind, value, causes);
        }
        ("apiextensions.k8s.io", _) => causes.extend(crate::crd::check(value)),
        ("admissionregistration.k8s.io", _) => webhooks(value, causes),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            if text(value, "/roleRef/name").is_empty() {
                causes.push(Cause::required("roleRef.name", ""));
            }
            let kind = &value["roleRef"]["kind"];
            if !matches!(kind.as_str(), Some("Role" | "ClusterRole")) {
                causes.push(Cause::unsupported(
                    "roleRef.kind",
                    kind,
                    &["Role".to_owned(), "ClusterRole".to_owned()],
                ));
            }
        }
        _ => {}
    }
}

fn keys(value: &Value, causes: &mut Vec<Cause>) {
    for field in ["data", "binaryData"] {
        for key in value[field]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k)
        {
            let good = !key.is_empty()
                && key.len() <= 253
                && key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !good {
                let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
                causes.push(Cause::invalid(
                    format!("{field}[{key}]"),
                    &json!(key),
                    detail,
                ));
            }
        }
    }
}

fn duplicate_keys(value: &Value, causes: &mut Vec<Cause>) {
    for key in value["data"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, _)| k)
    {
        if value["binaryData"].get(key).is_some() {
            causes.push(Cause::invalid(
                format!("data[{key}]"),
                &json!(key),
                "duplicate of key present in binaryData",
            ));
        }
    }
}

/// Secrets of a known type have the keys of that type.
fn secret_type(value: &Value, causes: &mut Vec<Cause>) {
    let needed: &[&str] = match text(value, "/type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if value["data"].get(*key).is_none() {
            causes.push(Cause::required(format!("data[{key}]"), ""));
        }
    }
}

fn service(value: &Value, causes: &mut Vec<Cause>) {
    let spec = &value["spec"];
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"].map(str::to_owned);
    if !kinds.iter().any(|k| spec["type"] == *k) {
        causes.push(Cause::unsupported("spec.type", &spec["type"], &kinds));
    }
    let headless = spec["clusterIP"] == "None";
    if spec["type"] == "ExternalName" {
        if text(spec, "/externalName").is_empty() {
            causes.push(Cause::required("spec.externalName", ""));
        }
        return;
    }
    let ports: Vec<&Value> = items(spec, "/ports").collect();
    if ports.is_empty() && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    let mut seen = std::collections::HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        if ports.len() > 1 && text(port, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.name"), ""));
        }
        if let Some(problem) = Some(text(port, "/name"))
            .filter(|n| !n.is_empty())
            .and_then(object::label_problem)
        {
            causes.push(Cause::invalid(
                format!("{path}.name"),
                &port["name"],
                &problem,
            ));
        }
        port_number(&port["port"], &format!("{path}.port"), causes);
        protocol(&port["protocol"], &format!("{path}.protocol"), causes);
        if port["targetPort"].is_number() {
            port_number(&port["targetPort"], &format!("{path}.targetPort"), causes);
        }
        if !seen.insert((port["protocol"].to_string(), port["port"].to_string())) {
            causes.push(Cause::duplicate(
                path,
                &json!({"protocol": port["protocol"], "port": port["port"]}),
            ));
        }
    }
}

fn port_number(value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !value.as_i64().is_some_and(|p| (1..=65535).contains(&p)) {
        let shown = if value.is_null() {
            json!(0)
        } else {
            value.clone()
        };
        causes.push(Cause::invalid(
            path,
            &shown,
            "must be between 1 and 65535, inclusive",
        ));
    }
}

fn protocol(value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let known = ["SCTP", "TCP", "UDP"].map(str::to_owned);
    if !known.iter().any(|k| value == k.as_str()) {
        causes.push(Cause::unsupported(path, value, &known));
    }
}

fn workload(kind: &Kind, value: &Value, causes: &mut Vec<Cause>) {
    let spec = &value["spec"];
    if let Some(replicas) = spec["replicas"].as_i64().filter(|r| *r < 0) {
        causes.push(Cause::invalid(
            "spec.replicas",
            &json!(replicas),
            "must be greater than or equal to 0",
        ));
    }
    let selector = LabelSelector::from_object(&spec["selector"]);
    let labels = spec.pointer("/template/metadata/labels");
    if spec["selector"].is_object() && selector.is_empty() {
        let detail = format!("empty selector is invalid for {}", kind.kind.to_lowercase());
        causes.push(Cause::invalid("spec.selector", &spec["selector"], &detail));
    } else if !spec["selector"].is_object() || !selector.matches(labels) {
        if !spec["selector"].is_object() {
            causes.push(Cause::required("spec.selector", ""));
        }
        let labels = labels.cloned().unwrap_or_else(|| json!({}));
        let detail = "`selector` does not match template `labels`";
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            &labels,
            detail,
        ));
    }
    object::check_labels(&spec["template"]["metadata"], "spec.template", causes);
    pod_spec(&spec["template"]["spec"], "spec.template.spec", causes);
    let policy = text(spec, "/template/spec/restartPolicy");
    let allowed: &[&str] = if kind.plural == "jobs" {
        &["OnFailure", "Never"]
    } else {
        &["Always"]
    };
    if !allowed.contains(&policy) {
        let supported: Vec<String> = allowed.iter().map(|a| (*a).to_owned()).collect();
        causes.push(Cause::unsupported(
            "spec.template.spec.restartPolicy",
            &json!(policy),
            &supported,
        ));
    }
}

fn webhooks(value: &Value, causes: &mut Vec<Cause>) {
    for (i, webhook) in items(value, "/webhooks").enumerate() {
        let path = format!("webhooks[{i}]");
        let name = text(webhook, "/name");
        if name.split('.').count() < 3 {
            let detail = "should be a domain with at least three segments separated by dots";
            causes.push(Cause::invalid(format!("{path}.name"), &json!(name), detail));
        }
        if items(webhook, "/admissionReviewVersions").next().is_none() {
            let detail = "must specify one of v1, v1beta1";
            causes.push(Cause::required(
                format!("{path}.admissionReviewVersions"),
                detail,
            ));
        }
        let effects = &webhook["sideEffects"];
        if !matches!(effects.as_str(), Some("None" | "NoneOnDryRun")) {
            let supported = ["None".to_owned(), "NoneOnDryRun".to_owned()];
            let cause = if effects.is_null() {
                Cause::required(
                    format!("{path}.sideEffects"),
                    "must specify one of None, NoneOnDryRun",
                )
            } else {
                Cause::unsupported(format!("{path}.sideEffects"), effects, &supported)
            };
            causes.push(cause);
        }
        let client = &webhook["clientConfig"];
        if client["service"].is_object() == client["url"].is_string() {
            causes.push(Cause::required(
                format!("{path}.clientConfig"),
                "exactly one of url or service is required",
            ));
        }
        if let Some(seconds) = webhook["timeoutSeconds"]
            .as_i64()
            .filter(|s| !(1..=30).contains(s))
        {
            let detail = "the timeout value must be between 1 and 30 seconds";
            causes.push(Cause::invalid(
                format!("{path}.timeoutSeconds"),
                &json!(seconds),
                detail,
            ));
        }
    }
}

fn immutable(kind: &Kind, value: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let mut fixed = |pointer: &str, field: &str| {
        let (before, after) = (old.pointer(pointer), value.pointer(pointer));
        if before != after {
            causes.push(Cause::invalid(
                field,
                after.unwrap_or(&Value::Null),
                "field is immutable",
            ));
        }
    };
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("apps", "deployments" | "replicasets" | "daemonsets") => {
            fixed("/spec/selector", "spec.selector")
        }
        ("batch", "jobs") => {
            fixed("/spec/selector", "spec.selector");
            fixed("/spec/template", "spec.template");
        }
        ("", "secrets") => fixed("/type", "type"),
        ("rbac.authorization.k8s.io", _) if old["roleRef"] != value["roleRef"] => {
            causes.push(Cause::invalid(
                "roleRef",
                &value["roleRef"],
                "cannot change roleRef",
            ));
        }
        ("", "services") => {
            let ip = |v: &Value| text(v, "/spec/clusterIP").to_owned();
            let external = |v: &Value| v["spec"]["type"] == "ExternalName";
            if !external(old) && !external(value) && !ip(old).is_empty() && ip(old) != ip(value) {
                let detail = "may not change once set";
                causes.push(Cause::invalid(
                    "spec.clusterIPs[0]",
                    &json!([ip(value)]),
                    detail,
                ));
            }
        }
        ("apps", "statefulsets") => stateful_set(value, old, causes),
        ("", "pods") => pod_update(value, old, causes),
        _ => {}
    }
    if old["immutable"] == true {
        for field in ["data", "binaryData", "immutable"] {
            if old[field] != value[field] {
                causes.push(Cause::forbidden(
                    field,
                    "field is immutable when `immutable` is set",
                ));
            }
        }
    }
}

fn stateful_set(value: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let free = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |v: &Value| -> Value {
        let mut spec = v["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|k, _| !free.contains(&k.as_str()));
        }
        spec
    };
    if fixed(value) != fixed(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        causes.push(Cause::forbidden("spec", detail));
    }
}

#[cfg(test)]
mod tests;
