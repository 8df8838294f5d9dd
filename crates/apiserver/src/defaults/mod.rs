//! Defaults of built-in kinds, as the real server fills them in where users and controllers see them.

pub mod pod;
mod workload;

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::object::{self, child, default, default_text, objects_mut};

/// Fills in the defaults of a built-in kind.
pub fn fill(kind: &Kind, value: &mut Value) {
    // Go always writes these two, being structures.
    let schema = crate::kinds::builtin().definitions.resolve(&kind.schema);
    for field in ["spec", "status"]
        .into_iter()
        .filter(|f| schema.properties.contains_key(*f))
    {
        default(root(value), field, json!({}));
    }
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces") => namespace(value),
        ("", "pods") => pod::pod(value),
        ("", "services") => service(value),
        ("", "secrets") => secret(value),
        ("", "endpoints") => endpoints(value),
        ("apps" | "batch", _) => workload::fill(kind, value),
        ("discovery.k8s.io", _) => endpoint_slice(value),
        ("rbac.authorization.k8s.io", _) => binding(value),
        ("admissionregistration.k8s.io", plural) => {
            webhooks(value, plural == "mutatingwebhookconfigurations")
        }
        ("apiextensions.k8s.io", _) => crate::crd::fill(value),
        ("networking.k8s.io", "networkpolicies") => network_policy(value),
        ("networking.k8s.io", "ingresses") => ingress(value),
        ("autoscaling", _) => default(child(value, "spec"), "minReplicas", 1),
        ("scheduling.k8s.io", _) => {
            default_text(root(value), "preemptionPolicy", "PreemptLowerPriority")
        }
        _ => {}
    }
}

fn root(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("the value holds an object"),
    }
}

fn namespace(value: &mut Value) {
    let name = object::name(value).to_owned();
    if !name.is_empty() {
        let mut metadata = Value::Object(std::mem::take(object::metadata(value)));
        child(&mut metadata, "labels")
            .insert("kubernetes.io/metadata.name".to_owned(), json!(name));
        value["metadata"] = metadata;
    }
    if !object::is_terminating(value) {
        default(child(value, "spec"), "finalizers", json!(["kubernetes"]));
        default_text(child(value, "status"), "phase", "Active");
    }
}

fn service(value: &mut Value) {
    let spec = child(value, "spec");
    default_text(spec, "type", "ClusterIP");
    default_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        default(
            spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": 10800}}),
        );
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    let headless = spec.get("clusterIP").and_then(Value::as_str) == Some("None");
    for port in objects_mut(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        let target = port.get("targetPort");
        let absent = target.is_none_or(|t| t.is_null() || *t == json!(0) || *t == json!(""));
        if (absent || headless && target == Some(&Value::Null)) && !number.is_null() {
            port.insert("targetPort".to_owned(), number);
        }
    }
    default(child(value, "status"), "loadBalancer", json!({}));
}

fn secret(value: &mut Value) {
    use base64::Engine;
    default_text(root(value), "type", "Opaque");
    if let Some(Value::Object(plain)) = root(value).remove("stringData") {
        let data = child(value, "data");
        for (key, text) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data.insert(key, json!(encoded));
        }
    }
}

fn endpoints(value: &mut Value) {
    for subset in objects_mut(root(value), "subsets") {
        for port in objects_mut(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

fn endpoint_slice(value: &mut Value) {
    for port in objects_mut(root(value), "ports") {
        default(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
}

fn binding(value: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    if value.get("roleRef").is_some() {
        default_text(child(value, "roleRef"), "apiGroup", GROUP);
    }
    for subject in objects_mut(root(value), "subjects") {
        if matches!(
            subject.get("kind").and_then(Value::as_str),
            Some("User" | "Group")
        ) {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn webhooks(value: &mut Value, mutating: bool) {
    for webhook in objects_mut(root(value), "webhooks") {
        default_text(webhook, "failurePolicy", "Fail");
        default_text(webhook, "matchPolicy", "Equivalent");
        default(webhook, "namespaceSelector", json!({}));
        default(webhook, "objectSelector", json!({}));
        default(webhook, "timeoutSeconds", 10);
        if mutating {
            default_text(webhook, "reinvocationPolicy", "Never");
        }
        for rule in objects_mut(webhook, "rules") {
            default_text(rule, "scope", "*");
        }
        if let Some(service) = webhook
            .get_mut("clientConfig")
            .and_then(|c| c.get_mut("service"))
            .and_then(Value::as_object_mut)
        {
            default(service, "port", 443);
        }
    }
}

fn network_policy(value: &mut Value) {
    let spec = child(value, "spec");
    default(spec, "podSelector", json!({}));
    if !spec.contains_key("policyTypes") {
        let mut types = vec!["Ingress"];
        if spec.get("egress").is_some() {
            types.push("Egress");
        }
        spec.insert("policyTypes".to_owned(), json!(types));
    }
    for direction in ["ingress", "egress"] {
        for rule in objects_mut(spec, direction) {
            for port in objects_mut(rule, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }
}

fn ingress(value: &mut Value) {
    for rule in objects_mut(child(value, "spec"), "rules") {
        if let Some(http) = rule.get_mut("http").and_then(Value::as_object_mut) {
            for path in objects_mut(http, "paths") {
                default_text(path, "pathType", "ImplementationSpecific");
            }
        }
    }
    default(child(value, "status"), "loadBalancer", json!({}));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::builtin;

    fn filled(plural: &str, mut value: Value) -> Value {
        let kind = builtin().kinds.iter().find(|k| k.plural == plural).unwrap();
        fill(kind, &mut value);
        value
    }

    #[test]
    fn services_namespaces_and_secrets_get_what_users_see() {
        let service = filled(
            "services",
            json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}}),
        );
        assert_eq!(
            service["spec"]["ports"][0],
            json!({"port": 80, "protocol": "TCP", "targetPort": 80})
        );
        assert_eq!(service["spec"]["ports"][1]["targetPort"], "http");
        assert_eq!(service["spec"]["type"], "ClusterIP");
        let namespace = filled("namespaces", json!({"metadata": {"name": "x"}}));
        assert_eq!(
            namespace["metadata"]["labels"],
            json!({"kubernetes.io/metadata.name": "x"})
        );
        assert_eq!(
            (
                &namespace["spec"]["finalizers"],
                &namespace["status"]["phase"]
            ),
            (&json!(["kubernetes"]), &json!("Active"))
        );
        let secret = filled("secrets", json!({"stringData": {"a": "b"}}));
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    }
}
