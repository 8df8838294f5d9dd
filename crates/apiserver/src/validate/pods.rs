//! Pod specs, of pods and of templates.

use serde_json::{Value, json};

use super::{port_number, protocol};
use crate::object::{self, items, text};
use crate::status::Cause;

/// Checks a pod spec.
pub(super) fn pod_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let volumes: Vec<&str> = items(spec, "/volumes").map(|v| text(v, "/name")).collect();
    for (i, name) in volumes.iter().enumerate() {
        let field = format!("{path}.volumes[{i}].name");
        if name.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if let Some(problem) = object::label_problem(name) {
            causes.push(Cause::invalid(field, &json!(name), &problem));
        } else if volumes.iter().take(i).any(|v| v == name) {
            causes.push(Cause::duplicate(field, &json!(name)));
        }
    }
    if items(spec, "/containers").next().is_none() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut names = Vec::new();
    for list in ["initContainers", "containers"] {
        for (i, one) in items(spec, &format!("/{list}")).enumerate() {
            let at = format!("{path}.{list}[{i}]");
            let name = text(one, "/name");
            if name.is_empty() {
                causes.push(Cause::required(format!("{at}.name"), ""));
            } else if let Some(problem) = object::label_problem(name) {
                causes.push(Cause::invalid(format!("{at}.name"), &json!(name), &problem));
            } else if names.contains(&name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &json!(name)));
            }
            names.push(name);
            container(one, &at, &volumes, causes);
        }
    }
    for (field, known) in [
        ("restartPolicy", &["Always", "OnFailure", "Never"][..]),
        (
            "dnsPolicy",
            &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"][..],
        ),
    ] {
        let value = &spec[field];
        if !value.is_null() && !known.iter().any(|k| value == k) {
            let supported: Vec<String> = known.iter().map(|k| (*k).to_owned()).collect();
            causes.push(Cause::unsupported(
                format!("{path}.{field}"),
                value,
                &supported,
            ));
        }
    }
}

fn container(one: &Value, path: &str, volumes: &[&str], causes: &mut Vec<Cause>) {
    if text(one, "/image").is_empty() {
        causes.push(Cause::required(format!("{path}.image"), ""));
    }
    let policies = ["Always", "IfNotPresent", "Never"].map(str::to_owned);
    if !policies.iter().any(|p| one["imagePullPolicy"] == *p) {
        causes.push(Cause::unsupported(
            format!("{path}.imagePullPolicy"),
            &one["imagePullPolicy"],
            &policies,
        ));
    }
    for (i, port) in items(one, "/ports").enumerate() {
        port_number(
            &port["containerPort"],
            &format!("{path}.ports[{i}].containerPort"),
            causes,
        );
        protocol(
            &port["protocol"],
            &format!("{path}.ports[{i}].protocol"),
            causes,
        );
    }
    for (i, mount) in items(one, "/volumeMounts").enumerate() {
        let at = format!("{path}.volumeMounts[{i}]");
        let name = text(mount, "/name");
        if !volumes.contains(&name) {
            causes.push(Cause::not_found(format!("{at}.name"), &json!(name)));
        }
        if text(mount, "/mountPath").is_empty() {
            causes.push(Cause::required(format!("{at}.mountPath"), ""));
        }
    }
    for (i, env) in items(one, "/env").enumerate() {
        if text(env, "/name").is_empty() {
            causes.push(Cause::required(format!("{path}.env[{i}].name"), ""));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(map) = one[probe].as_object() else {
            continue;
        };
        let handlers = ["httpGet", "tcpSocket", "exec", "grpc"]
            .iter()
            .filter(|h| map.contains_key(**h))
            .count();
        match handlers {
            1 => {}
            0 => causes.push(Cause::required(
                format!("{path}.{probe}"),
                "must specify a handler type",
            )),
            _ => causes.push(Cause::forbidden(
                format!("{path}.{probe}"),
                "may not specify more than 1 handler type",
            )),
        }
    }
}

/// Of a pod's spec only images, deadlines, tolerations (added), gates (removed) and the binding may change.
pub(super) fn pod_update(value: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let fixed = |v: &Value| -> Value {
        let mut spec = v["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            for field in [
                "activeDeadlineSeconds",
                "terminationGracePeriodSeconds",
                "tolerations",
                "schedulingGates",
                "ephemeralContainers",
            ] {
                map.remove(field);
            }
            if text(old, "/spec/nodeName").is_empty() {
                map.remove("nodeName");
            }
            for list in ["containers", "initContainers"] {
                for one in object::objects_mut(map, list) {
                    one.remove("image");
                }
            }
        }
        spec
    };
    if fixed(value) != fixed(old) {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(Cause::forbidden("spec", detail));
    }
}
