//! Defaults of pods and of pod templates.

use serde_json::{Map, Value, json};

use crate::object::{child, default, default_text, objects_mut};

/// A pod: its spec, and the initial status.
pub fn pod(value: &mut Value) {
    let spec = child(value, "spec");
    default(spec, "enableServiceLinks", true);
    self::spec(spec);
    for list in ["containers", "initContainers"] {
        for container in objects_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    let class = quality(value.get("spec").unwrap_or(&Value::Null));
    let status = child(value, "status");
    default_text(status, "phase", "Pending");
    default_text(status, "qosClass", class);
}

/// The spec of a pod or of a template.
pub fn spec(spec: &mut Map<String, Value>) {
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    // The two spellings of one field.
    let account = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|k| {
            spec.get(*k)
                .and_then(Value::as_str)
                .filter(|s| !s.is_empty())
        });
    if let Some(account) = account.map(str::to_owned) {
        spec.insert("serviceAccount".to_owned(), json!(account));
        spec.insert("serviceAccountName".to_owned(), json!(account));
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for item in objects_mut(spec, list) {
            container(item, host_network);
        }
    }
    for volume in objects_mut(spec, "volumes") {
        self::volume(volume);
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    default_text(container, "imagePullPolicy", pull_policy(&image));
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in objects_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for env in objects_mut(container, "env") {
        if let Some(reference) = env
            .get_mut("valueFrom")
            .and_then(|v| v.get_mut("fieldRef"))
            .and_then(Value::as_object_mut)
        {
            default_text(reference, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).and_then(Value::as_object_mut) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = container
        .get_mut("lifecycle")
        .and_then(Value::as_object_mut)
    {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get_mut(name).and_then(Value::as_object_mut) {
                http_get(handler);
            }
        }
    }
}

/// `latest`, said or not, is pulled always.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

fn probe(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe
            .get(field)
            .is_none_or(|v| v.is_null() || *v == json!(0))
        {
            probe.insert(field.to_owned(), json!(value));
        }
    }
    http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        default(grpc, "service", "");
    }
}

/// 0644, the mode of files in volumes.
const FILE_MODE: i64 = 420;

fn field_references(source: &mut Map<String, Value>) {
    for item in objects_mut(source, "items") {
        if let Some(reference) = item.get_mut("fieldRef").and_then(Value::as_object_mut) {
            default_text(reference, "apiVersion", "v1");
        }
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        let Some(source) = volume.get_mut(kind).and_then(Value::as_object_mut) else {
            continue;
        };
        default(source, "defaultMode", FILE_MODE);
        field_references(source);
        for projection in objects_mut(source, "sources") {
            if let Some(token) = projection
                .get_mut("serviceAccountToken")
                .and_then(Value::as_object_mut)
            {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = projection
                .get_mut("downwardAPI")
                .and_then(Value::as_object_mut)
            {
                field_references(downward);
            }
        }
    }
    if let Some(host) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        default(host, "type", "");
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = container
        .get_mut("resources")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// The quality of service class.
pub fn quality(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = ["/containers", "/initContainers"]
        .iter()
        .flat_map(|l| crate::object::items(spec, l))
        .collect();
    let amount = |c: &Value, kind: &str, name: &str| c["resources"][kind].get(name).cloned();
    let any = containers.iter().any(|c| {
        ["limits", "requests"]
            .iter()
            .any(|k| ["cpu", "memory"].iter().any(|n| amount(c, k, n).is_some()))
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|c| {
        ["cpu", "memory"].iter().all(|n| {
            let limit = amount(c, "limits", n);
            limit.is_some() && amount(c, "requests", n).is_none_or(|r| Some(r) == limit)
        })
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_gets_every_visible_default() {
        let mut value = json!({"spec": {"containers": [{
            "name": "a", "image": "x", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
        }], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "s"}}]}});
        pod(&mut value);
        let spec = &value["spec"];
        assert_eq!(
            (&spec["restartPolicy"], &spec["dnsPolicy"]),
            (&json!("Always"), &json!("ClusterFirst"))
        );
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(
            spec["containers"][0]["readinessProbe"],
            json!({
                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
            })
        );
        assert_eq!(
            spec["volumes"],
            json!([{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}}])
        );
        assert_eq!(
            value["status"],
            json!({"phase": "Pending", "qosClass": "BestEffort"})
        );
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        let cases = [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("h:5000/a", "Always"),
            ("h:5000/a:1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
        ];
        for (image, policy) in cases {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
